"""A whole residual block, forward and backward: ours with the penalty, and plain ones without.

Verified first: outputs, energies and gradients are those of a plain chain that takes the energy of
its residues by hand, with the penalty on and off.
"""

import copy
from collections.abc import Callable
from functools import partial

import plain_blocks
import pytest
import torch
from oracle import relative_error
from plain_blocks import Chain, PlainPreAct
from race import race
from torch import Tensor, nn
from torchvision.models.mobilenetv2 import InvertedResidual
from torchvision.models.resnet import BasicBlock
from torchvision.models.vision_transformer import EncoderBlock

from trgl_kernels import RegularizedPreActBlock, collect_energy, regularize

SHAPES = [(2, 8, 4, 4), (32, 64, 32, 32), (8, 256, 16, 16)]
WEIGHT = torch.tensor(0.5 / 0.1)  # 1/(2τ): the gradient of the loss with respect to C

# runs a block forward and backward, given its input and the gradient of its output
Pass = Callable[[nn.Module, Tensor, Tensor], list[Tensor]]


def plain(block: nn.Module, x: Tensor, grad: Tensor) -> list[Tensor]:
    y = block(x)
    y.backward(grad)
    return [y]


def eager_penalty(chain: Chain, block: nn.Module, x: Tensor, grad: Tensor) -> list[Tensor]:
    y, residues = chain(block, x)
    cost = sum(r.square().flatten(1).mean(1).mean() for r in residues)
    torch.autograd.backward((y, cost), (grad, WEIGHT))
    return [y, cost]


def penalty(block: nn.Module, x: Tensor, grad: Tensor) -> list[Tensor]:
    with collect_energy() as energies:
        y = block(x)
    cost = energies.total()
    torch.autograd.backward((y, cost), (grad, WEIGHT))
    return [y, cost]


def uneven(block: nn.Module) -> nn.Module:
    """Draws γ, β and biases: with ones and zeros some gradients are nothing but rounding errors."""
    for parameter in block.parameters():
        if parameter.dim() == 1:
            nn.init.uniform_(parameter, 0.5, 1.5)
    return block


def draw(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """x and the gradient of y, small enough that the penalty's is not lost beside it."""
    x = torch.randn(shape)
    return x.requires_grad_(), WEIGHT * torch.randn(shape) / x.numel()


def results(function: Pass, block: nn.Module, x: Tensor, grad: Tensor) -> dict[str, Tensor]:
    """Outputs and gradients of one pass, by name."""
    outputs = zip(("y", "cost"), function(block, x, grad), strict=False)
    found = {name: output.detach() for name, output in outputs}
    found["grad_x"] = x.grad
    # the names of ours and of a plain block may differ, the order of their parameters does not
    found |= {f"grad_{i}": p.grad for i, p in enumerate(block.parameters())}
    x.grad = None
    block.zero_grad()
    return found


def assert_close(ours: dict[str, Tensor], eager: dict[str, Tensor]) -> None:
    """Equal in norm: an element at a ReLU's kink may fall on either side."""
    assert ours.keys() == eager.keys()
    for name, value in eager.items():
        assert relative_error(ours[name], value.double()) < 1e-3, name


def verify(
    ours: list[nn.Module], chain: Chain, ordinary: nn.Module, x: Tensor, grad: Tensor
) -> None:
    """Our blocks against the plain chain with the penalty, and the plain block without."""
    on = results(partial(eager_penalty, chain), ordinary, x, grad)
    off = results(plain, ordinary, x, grad)
    for block in ours:
        assert_close(results(penalty, block, x, grad), on)
        assert_close(results(plain, block, x, grad), off)
    seen = max(relative_error(on[name], off[name].double()) for name in off)
    assert seen > 0.1, "the penalty hardly moves a gradient, so that none of this looked at it"


def step(function: Pass, block: nn.Module, x: Tensor, grad: Tensor) -> Callable[[], None]:
    def run() -> None:
        function(block, x, grad)
        x.grad = None
        block.zero_grad()

    return run


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_basic_block(benchmark, shape) -> None:
    torch.manual_seed(0)
    x, grad = draw(shape)
    ordinary = uneven(BasicBlock(shape[1], shape[1]))
    ours = regularize(copy.deepcopy(ordinary))
    rebuilding = regularize(copy.deepcopy(ordinary), recompute="activation")
    verify([ours, rebuilding], plain_blocks.basic, ordinary, x, grad)
    race(
        benchmark,
        step(penalty, ours, x, grad),
        {
            "eager": step(partial(eager_penalty, plain_blocks.basic), ordinary, x, grad),
            "eager_without_penalty": step(plain, ordinary, x, grad),
            "penalty_off": step(plain, ours, x, grad),
            "recompute_activation": step(penalty, rebuilding, x, grad),
        },
        op="RegularizedBasicBlock",
        part="forward + backward",
        x=x,
    )


def pre_activation() -> nn.Module:
    return PlainPreAct(RegularizedPreActBlock(64, 64))


def inverted_residual() -> nn.Module:
    return InvertedResidual(32, 32, 1, 6)


def encoder_block() -> nn.Module:
    return EncoderBlock(6, 384, 1536, 0.0, 0.0)


def regularized(ordinary: nn.Module, recompute: str) -> nn.Module:
    """Our block with copies of the weights of a plain one."""
    if not isinstance(ordinary, PlainPreAct):
        return regularize(copy.deepcopy(ordinary), recompute=recompute)
    block = RegularizedPreActBlock(64, 64)
    block.load_state_dict(ordinary.state_dict())
    return block.with_recompute(recompute)


@pytest.mark.parametrize("recompute", ["none", "activation"])
@pytest.mark.parametrize(
    ("block", "chain", "shape"),
    [
        (pre_activation, plain_blocks.pre_activation, (64, 64, 32, 32)),
        (inverted_residual, plain_blocks.inverted_residual, (32, 32, 56, 56)),
        (encoder_block, plain_blocks.encoder_block, (16, 784, 384)),
    ],
    ids=["pre-activation", "inverted residual", "ViT"],
)
def test_penalty(benchmark, block, chain, shape, recompute) -> None:
    """What the penalty adds to blocks of which a convolution or a matrix product makes r."""
    torch.manual_seed(0)
    x, grad = draw(shape)
    ordinary = uneven(block())
    ours = regularized(ordinary, recompute)
    verify([ours], chain, ordinary, x, grad)
    race(
        benchmark,
        step(penalty, ours, x, grad),
        {
            "eager_without_penalty": step(plain, ordinary, x, grad),
            "penalty_off": step(plain, ours, x, grad),
        },
        op=f"{type(ours).__name__}, recompute={recompute}",
        part="forward + backward",
        x=x,
    )
