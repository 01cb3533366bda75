"""A whole residual block, forward and backward: ours with the penalty, and plain ones without."""

import copy

import pytest
import torch
from race import copy_of, race
from torch import Tensor, nn
from torchvision.models.mobilenetv2 import InvertedResidual
from torchvision.models.resnet import BasicBlock
from torchvision.models.vision_transformer import EncoderBlock

from trgl_kernels import RegularizedPreActBlock, collect_energy, regularize

SHAPES = [(2, 8, 4, 4), (32, 64, 32, 32), (8, 256, 16, 16)]
WEIGHT = torch.tensor(0.5 / 0.1)  # 1/(2τ): the gradient of the loss with respect to C


class Measured(BasicBlock):
    """torchvision's block that keeps its residue, as a user without fused operators would."""

    def forward(self, x: Tensor) -> Tensor:  # [N, C, H, W]
        self.residue = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(x + self.residue)


def plain(block: nn.Module, x: Tensor, grad: Tensor) -> None:
    block(x).backward(grad)


def eager_penalty(block: Measured, x: Tensor, grad: Tensor) -> None:
    y = block(x)
    cost = block.residue.square().flatten(1).mean(1).mean()
    torch.autograd.backward((y, cost), (grad, WEIGHT))


def penalty(block: nn.Module, x: Tensor, grad: Tensor) -> None:
    with collect_energy() as energies:
        y = block(x)
    torch.autograd.backward((y, energies.total()), (grad, WEIGHT))


def gradients(step, block: nn.Module, x: Tensor, grad: Tensor) -> list[Tensor]:
    step(block, x, grad)
    found = [x.grad, *(p.grad for p in block.parameters())]
    x.grad = None
    block.zero_grad()
    return found


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_basic_block(benchmark, shape) -> None:
    torch.manual_seed(0)
    x, grad = torch.randn(shape).requires_grad_(), torch.randn(shape)
    measured = Measured(shape[1], shape[1])
    ordinary = BasicBlock(shape[1], shape[1])
    ordinary.load_state_dict(measured.state_dict())
    ours = regularize(copy.deepcopy(ordinary))
    rebuilding = regularize(copy.deepcopy(ordinary), recompute="activation")

    for a, b in zip(
        gradients(penalty, ours, x, grad),
        gradients(eager_penalty, measured, x, grad),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-2 * float(b.abs().max()))

    def step(function, block):
        def run() -> None:
            function(block, x, grad)
            x.grad = None
            block.zero_grad()

        return run

    race(
        benchmark,
        step(penalty, ours),
        {
            "eager": step(eager_penalty, measured),
            "eager_without_penalty": step(plain, ordinary),
            "penalty_off": step(plain, ours),
            "recompute_activation": step(penalty, rebuilding),
            "copy": copy_of(x.detach()),
        },
        moved=2 * x.nbytes,
        copied=2 * x.nbytes,
        op="RegularizedBasicBlock",
        **{"pass": "forward + backward"},
        shape=str(shape),
        type="float32",
        layout="NCHW",
    )


def pre_activation() -> nn.Module:
    return RegularizedPreActBlock(64, 64)


def inverted_residual() -> nn.Module:
    return InvertedResidual(32, 32, 1, 6)


def encoder_block() -> nn.Module:
    return EncoderBlock(6, 384, 1536, 0.0, 0.0)


@pytest.mark.parametrize("recompute", ["none", "activation"])
@pytest.mark.parametrize(
    ("block", "shape"),
    [
        (pre_activation, (64, 64, 32, 32)),
        (inverted_residual, (32, 32, 56, 56)),
        (encoder_block, (16, 784, 384)),
    ],
    ids=["pre-activation", "inverted residual", "ViT"],
)
def test_penalty(benchmark, block, shape, recompute) -> None:
    """What the penalty adds to blocks of which a convolution or a matrix product makes r."""
    torch.manual_seed(0)
    x, grad = torch.randn(shape).requires_grad_(), torch.randn(shape)
    ordinary = block()
    ours = regularize(copy.deepcopy(ordinary), recompute=recompute)
    torch.testing.assert_close(
        gradients(plain, ours, x, grad)[0],
        gradients(plain, ordinary, x, grad)[0],
        rtol=1e-2,
        atol=1e-3,
    )

    def step(function, block):
        def run() -> None:
            function(block, x, grad)
            x.grad = None
            block.zero_grad()

        return run

    race(
        benchmark,
        step(penalty, ours),
        {
            "eager_without_penalty": step(plain, ordinary),
            "penalty_off": step(plain, ours),
            "copy": copy_of(x.detach()),
        },
        moved=2 * x.nbytes,
        copied=2 * x.nbytes,
        op=f"{type(ours).__name__}, recompute={recompute}",
        **{"pass": "forward + backward"},
        shape=str(shape),
        type="float32",
        layout="NCHW" if len(shape) == 4 else "contiguous",
    )
