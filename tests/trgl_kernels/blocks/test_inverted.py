"""Inverted residual blocks: torchvision's outputs, gradients and keys, and the energy."""

import copy

import pytest
import torch
from oracle import gradients
from torch import Tensor, nn
from torchvision.models import efficientnet, mobilenetv2
from torchvision.ops import StochasticDepth

from trgl_kernels import (
    RegularizedFusedMBConv,
    RegularizedInvertedResidual,
    RegularizedMBConv,
    collect_energy,
    regularize,
)


def efficient(kind: str, ratio: float, drop: float) -> nn.Module:
    config = getattr(efficientnet, f"{kind}Config")(ratio, 3, 1, 8, 8, 1)
    return getattr(efficientnet, kind)(config, drop, nn.BatchNorm2d)


BLOCKS = {
    "inverted": (lambda: mobilenetv2.InvertedResidual(8, 8, 1, 4), RegularizedInvertedResidual),
    "inverted-thin": (
        lambda: mobilenetv2.InvertedResidual(8, 8, 1, 1),
        RegularizedInvertedResidual,
    ),
    "mbconv": (lambda: efficient("MBConv", 4, 0.0), RegularizedMBConv),
    "mbconv-drop": (lambda: efficient("MBConv", 4, 0.5), RegularizedMBConv),
    "fused": (lambda: efficient("FusedMBConv", 4, 0.5), RegularizedFusedMBConv),
    "fused-thin": (lambda: efficient("FusedMBConv", 1, 0.5), RegularizedFusedMBConv),
}


def pair(name: str) -> tuple[nn.Module, nn.Module]:
    """torchvision's block in float64 with weights that matter, and ours with the same ones."""
    build, _ = BLOCKS[name]
    theirs = build().double()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.5)
    return theirs, regularize(copy.deepcopy(theirs))


def run(block: nn.Module, x: Tensor, collected: bool) -> list[Tensor]:
    torch.manual_seed(5)  # the draws of DropPath
    leaf = x.clone().requires_grad_()
    if collected:
        with collect_energy():
            y = block(leaf)
    else:
        y = block(leaf)
    return [y, *gradients([y], [torch.ones_like(y)], [leaf, *block.parameters()])]


@pytest.mark.parametrize("collected", [True, False])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", BLOCKS)
def test_equals_torchvision(name, training, collected) -> None:
    theirs, mine = (block.train(training) for block in pair(name))
    assert type(mine) is BLOCKS[name][1]
    x = torch.randn(6, 8, 7, 7, dtype=torch.float64)
    for _ in range(2):
        for a, b in zip(run(mine, x, collected), run(theirs, x, False), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    assert list(theirs.state_dict()) == list(mine.state_dict())
    for key, value in theirs.state_dict().items():
        torch.testing.assert_close(mine.state_dict()[key], value, msg=key)


@pytest.mark.parametrize("name", BLOCKS)
def test_the_energy_is_that_of_what_is_added(name) -> None:
    theirs, mine = pair(name)
    x = torch.randn(6, 8, 7, 7, dtype=torch.float64)
    torch.manual_seed(5)
    residue = theirs(x.clone()) - x
    torch.manual_seed(5)
    with collect_energy() as energies:
        mine(x)
    torch.testing.assert_close(energies.energies, [residue.square().sum((1, 2, 3))])
    assert energies.features == [8 * 49]


def test_dropped_samples_have_no_energy_and_no_gradient_through_the_branch() -> None:
    block = regularize(efficient("MBConv", 4, 0.5))
    x = torch.randn(32, 8, 5, 5)
    with collect_energy() as energies:
        y = block(x)
    dropped = (y == x).flatten(1).all(1)
    assert 4 < dropped.sum() < 28
    assert torch.equal(energies.energies[0] == 0, dropped)


def test_without_a_shortcut_nothing_is_measured() -> None:
    block = RegularizedInvertedResidual(8, 12, 1, 4)
    theirs = mobilenetv2.InvertedResidual(8, 12, 1, 4)
    theirs.load_state_dict(block.state_dict())
    x = torch.randn(4, 8, 6, 6)
    with collect_energy() as energies:
        torch.testing.assert_close(block(x), theirs(x))
    assert len(energies) == 0


@pytest.mark.parametrize("place", ["block", "block.3", "block.3.1", "stochastic_depth"])
def test_hooks_are_honoured(place) -> None:
    theirs, mine = pair("mbconv-drop")
    calls: list[str] = []
    mine.get_submodule(place).register_forward_hook(lambda *args: calls.append(place))
    x = torch.randn(6, 8, 7, 7, dtype=torch.float64)
    found = []
    for block in (theirs, mine):
        torch.manual_seed(5)
        with collect_energy() as energies:
            found.append(block(x))
    torch.testing.assert_close(*found)
    assert calls == [place]
    assert len(energies) == 1


def test_stochastic_depth_by_batch_is_called() -> None:
    theirs, mine = pair("mbconv-drop")
    theirs.stochastic_depth = mine.stochastic_depth = StochasticDepth(0.5, "batch")
    x = torch.randn(6, 8, 7, 7, dtype=torch.float64)
    for _ in range(4):
        for a, b in zip(run(mine, x, True), run(theirs, x, False), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
