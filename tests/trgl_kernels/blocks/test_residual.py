"""What every block does in either layout and in narrow types; RegularizedResidual."""

import copy

import pytest
import torch
from oracle import LAYOUTS, READS_GRAD, ROUNDING, leaf, relative_error
from torch import Tensor, nn
from torchvision.models import mobilenetv2, resnet

from trgl_kernels import RegularizedPreActBlock, RegularizedResidual, collect_energy, regularize
from trgl_kernels.blocks import Regularized


class PlainPreAct(nn.Module):
    """The pre-activation block as one writes it without this package."""

    def __init__(self) -> None:
        super().__init__()
        relu = nn.ReLU(inplace=True)
        convs = [nn.Conv2d(8, 8, 3, padding=1, bias=False) for _ in range(2)]
        norms = [nn.BatchNorm2d(8) for _ in range(2)]
        self.branch = nn.Sequential(norms[0], relu, convs[0], norms[1], relu, convs[1])

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


def twin(plain: nn.Module) -> nn.Module:
    """The regularized block with the same weights."""
    if not isinstance(plain, PlainPreAct):
        return regularize(copy.deepcopy(plain))
    block = RegularizedPreActBlock(8, 8)
    block.bn1, _, block.conv1, block.bn2, _, block.conv2 = copy.deepcopy(plain.branch)
    return block


# a plain block, and the module that gives its residue
PLAIN = {
    "basic": (lambda: resnet.BasicBlock(8, 8), "bn2"),
    "bottleneck": (lambda: resnet.Bottleneck(8, 2), "bn3"),
    "pre-activation": (PlainPreAct, "branch"),
    "inverted": (lambda: mobilenetv2.InvertedResidual(8, 8, 1, 4), "conv"),
}


def results(block: nn.Module, place: str | None, x: Tensor, weights: Tensor) -> dict[str, Tensor]:
    """Output, energies, and gradients of the input and of all parameters.

    The energy is collected, or taken by a hook on what gives the residue.
    """
    taken: list[Tensor] = []

    def take(_module, _args, r: Tensor) -> None:
        wide = torch.promote_types(r.dtype, torch.float32)
        taken.append(r.clone().to(wide).square().flatten(1).sum(1))

    with collect_energy() as energies:
        handle = block.get_submodule(place).register_forward_hook(take) if place else None
        y = block(x)
    if handle is not None:
        handle.remove()
    (energy,) = taken if place else energies.energies
    loss = (y * weights.to(y.dtype)).sum() + 0.1 * energy.sum()
    found = {"y": y.detach(), "energy": energy.detach()}
    names = ["x", *dict(block.named_parameters())]
    inputs = [x, *block.parameters()]
    return found | dict(zip(names, torch.autograd.grad(loss, inputs), strict=True))


def typed(block: nn.Module, dtype: torch.dtype, layout: torch.memory_format) -> nn.Module:
    """A copy in a type and a layout; norms in float32 at least, as mixed precision has it."""
    block = copy.deepcopy(block).to(dtype=dtype, memory_format=layout)
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d) and dtype != torch.float64:
            module.float()
    return block


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", PLAIN)
def test_values_and_gradients_beside_the_plain_block(name, dtype, layout) -> None:
    build, place = PLAIN[name]
    plain = typed(build(), dtype, torch.contiguous_format)  # whose weights have the type's values
    drawn = torch.randn(4, 8, 6, 6).to(dtype)
    weights = torch.randn(4, 8, 6, 6).to(dtype).double().contiguous(memory_format=layout)
    contiguous, wide = torch.contiguous_format, torch.float64
    exact = results(typed(plain, wide, contiguous), place, leaf(drawn, wide, contiguous), weights)
    given = leaf(drawn, dtype, layout), weights
    eager = results(typed(plain, dtype, layout), place, *given)
    ours = results(typed(twin(plain), dtype, layout), None, *given)
    for key, *three in zip(exact, ours.values(), eager.values(), exact.values(), strict=True):
        actual, yardstick, known = three
        # a float32 sum behind three norms and of another order: 1.6e-6 measured beside 3.5e-7
        bound = 2 * relative_error(yardstick, known) + max(ROUNDING[dtype], 2e-6)
        assert relative_error(actual, known) <= bound, key
    assert ours["y"].is_contiguous(memory_format=layout)
    assert ours["x"].is_contiguous(memory_format=layout)


@READS_GRAD
@pytest.mark.parametrize("name", ["basic", "bottleneck", "inverted"])
def test_a_block_compiles_with_its_gradients(name) -> None:
    block = twin(PLAIN[name][0]())
    compiled = torch.compile(copy.deepcopy(block), fullgraph=True, backend="aot_eager")
    drawn, weights = torch.randn(4, 8, 6, 6), torch.randn(4, 8, 6, 6)
    x = leaf(drawn, torch.float32, torch.channels_last)
    expected, found = (results(one, None, x, weights) for one in (block, compiled))
    for a, b in zip(found.values(), expected.values(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("activation", ["none", "relu"])
@pytest.mark.parametrize("shortcut", [None, nn.Linear(6, 4)])
def test_adds_the_branch_to_the_shortcut(activation, shortcut) -> None:
    branch, x = nn.Linear(6, 6 if shortcut is None else 4), torch.randn(5, 6)
    block = RegularizedResidual(branch, shortcut, activation)
    u = (x if shortcut is None else shortcut(x)) + branch(x)
    with collect_energy() as energies:
        torch.testing.assert_close(block(x), u.relu() if activation == "relu" else u)
    torch.testing.assert_close(energies.total(), branch(x).square().mean())


def test_displacement() -> None:
    branch, x = nn.Linear(6, 6), torch.randn(5, 6)
    block = RegularizedResidual(branch, activation="relu", energy="displacement")
    with collect_energy() as energies:
        y = block(x)
    torch.testing.assert_close(energies.total(), (y - x).square().mean())


def test_a_branch_may_be_any_callable() -> None:
    x = torch.randn(5, 6)
    block = RegularizedResidual(torch.sin, lambda x: 2.0 * x)
    torch.testing.assert_close(block(x), 2.0 * x + x.sin())


@pytest.mark.parametrize("activation", ["none", "relu"])
@pytest.mark.parametrize("types", [("bfloat16",) * 2, ("bfloat16", "float16"), ("float32",) * 2])
def test_a_float32_scale_widens_the_stream_as_in_eager(types, activation) -> None:
    x, r = (torch.randn(3, 5, 8).to(getattr(torch, name)) for name in types)
    scale = torch.rand(8, requires_grad=True)
    keep = torch.tensor([0.0, 1.25, 1.25])
    q = r * scale * keep.view(3, 1, 1)
    y = torch.relu(x + q) if activation == "relu" else x + q
    with collect_energy() as energies:
        found = Regularized().add(x, r, activation, scale, keep)
    assert found.dtype == y.dtype == torch.float32
    torch.testing.assert_close(found, y)
    torch.testing.assert_close(energies.total(), q.square().mean())
    torch.testing.assert_close(
        torch.autograd.grad(found.sum(), scale), torch.autograd.grad(y.sum(), scale)
    )


def test_a_float32_scale_widens_what_is_normalized_too() -> None:
    x, r = (torch.randn(3, 5, 8).bfloat16() for _ in range(2))
    scale, norm = torch.rand(8), nn.LayerNorm(8)
    y, normed = Regularized().add_and_normalize(x, r, norm, scale)
    assert (y.dtype, normed.dtype) == (torch.float32, torch.float32)
    torch.testing.assert_close(y, x + r * scale)
    torch.testing.assert_close(normed, norm(x + r * scale))


def test_a_bfloat16_scale_leaves_the_stream_as_it_is() -> None:
    x, r = (torch.randn(3, 5, 8).bfloat16() for _ in range(2))
    assert Regularized().add(x, r, scale=torch.rand(8).bfloat16()).dtype == torch.bfloat16
    assert Regularized().add(x.float(), r, scale=torch.rand(8)).dtype == torch.float32


def test_mistakes_are_explained() -> None:
    with pytest.raises(ValueError, match=r"branch must be a module .*; received the class Linear"):
        RegularizedResidual(nn.Linear)
    with pytest.raises(ValueError, match=r"branch must be a module .*; received None"):
        RegularizedResidual(None)
    with pytest.raises(ValueError, match=r"shortcut must be a module .*; received 3"):
        RegularizedResidual(nn.Identity(), 3)
    with pytest.raises(ValueError, match="activation must be one of none, relu; received 'gelu'"):
        RegularizedResidual(nn.Identity(), activation="gelu")
    with pytest.raises(ValueError, match="energy of a block must be one of residue, displacement"):
        RegularizedResidual(nn.Identity(), energy="module")
    with pytest.raises(ValueError, match="x and r must have the same shape"):
        RegularizedResidual(nn.Linear(6, 4))(torch.randn(5, 6))
    with pytest.raises(ValueError, match="branch must return a tensor; received a tuple"):
        RegularizedResidual(nn.LSTM(6, 6))(torch.randn(5, 6))
