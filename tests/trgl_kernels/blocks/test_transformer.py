"""Swin and ViT blocks: torchvision's outputs, gradients and keys, and two energies."""

import copy
from functools import partial

import pytest
import torch
from oracle import READS_GRAD, gradients
from torch import Tensor, nn
from torchvision.models import swin_transformer
from torchvision.models.vision_transformer import EncoderBlock
from torchvision.ops import StochasticDepth

from trgl_kernels import (
    RegularizedSwinBlock,
    RegularizedSwinBlockV2,
    RegularizedViTBlock,
    collect_energy,
    regularize,
)


def swin(version: str, shift: int, drop: float, dropout: float = 0.0) -> nn.Module:
    kind = getattr(swin_transformer, f"SwinTransformerBlock{version}")
    return kind(8, 2, [3, 3], [shift, shift], dropout=dropout, stochastic_depth_prob=drop)


# a plain block, its twin, the shape of its input, and where its residues come from
BLOCKS = {
    "swin": (partial(swin, "", 0, 0.0), RegularizedSwinBlock),
    "swin-shift-drop": (partial(swin, "", 1, 0.5, 0.1), RegularizedSwinBlock),
    "swin-v2": (partial(swin, "V2", 1, 0.0), RegularizedSwinBlockV2),
    "swin-v2-drop": (partial(swin, "V2", 0, 0.5), RegularizedSwinBlockV2),
    "vit": (lambda: EncoderBlock(2, 8, 16, 0.0, 0.0), RegularizedViTBlock),
    "vit-dropout": (lambda: EncoderBlock(2, 8, 16, 0.2, 0.2), RegularizedViTBlock),
}


def draw(name: str) -> Tensor:
    shape = (6, 9, 8) if name.startswith("vit") else (6, 7, 5, 8)
    return torch.randn(*shape, dtype=torch.float64)


def pair(name: str) -> tuple[nn.Module, nn.Module]:
    """torchvision's block in float64 with weights that matter, and ours with the same ones."""
    build, _ = BLOCKS[name]
    theirs = build().double()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.5)
    return theirs, regularize(copy.deepcopy(theirs))


def run(block: nn.Module, x: Tensor, collected: bool) -> list[Tensor]:
    torch.manual_seed(5)  # the draws of dropout and DropPath
    leaf = x.clone().requires_grad_()
    if collected:
        with collect_energy():
            y = block(leaf)
    else:
        y = block(leaf)
    return [y, *gradients([y], [torch.ones_like(y)], [leaf, *block.parameters()])]


def residues(block: nn.Module, x: Tensor) -> list[Tensor]:
    """What torchvision's block adds to its input, and to the sum."""
    found: list[Tensor] = []
    if hasattr(block, "stochastic_depth"):
        handles = [block.stochastic_depth.register_forward_hook(lambda m, a, y: found.append(y))]
    else:
        handles = [
            getattr(block, name).register_forward_hook(lambda m, a, y: found.append(y))
            for name in ("dropout", "mlp")
        ]
    torch.manual_seed(5)
    block(x)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("mode", ["none", "activation"])
@pytest.mark.parametrize("collected", [True, False])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", BLOCKS)
def test_equals_torchvision(name, training, collected, mode) -> None:
    theirs, mine = (block.train(training) for block in pair(name))
    assert type(mine) is BLOCKS[name][1]
    mine.with_recompute(mode)
    x = draw(name)
    for a, b in zip(run(mine, x, collected), run(theirs, x, False), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    assert list(theirs.state_dict()) == list(mine.state_dict())


@pytest.mark.parametrize("mode", ["none", "residue"])
@pytest.mark.parametrize("energy", ["residue", "displacement"])
@pytest.mark.parametrize("name", BLOCKS)
def test_two_energies_and_their_gradients(name, energy, mode) -> None:
    theirs, mine = pair(name)
    mine.with_energy(energy).with_recompute(mode)
    x, weights = draw(name), torch.linspace(-1, 2, 6, dtype=torch.float64)
    expected = [r.square().flatten(1).sum(1) for r in residues(theirs, x)]
    torch.manual_seed(5)
    with collect_energy() as energies:
        mine(x)
    torch.testing.assert_close(energies.energies, expected)
    assert energies.features == [x[0].numel()] * 2
    found = []
    for block, terms in ((theirs, expected), (mine, energies.energies)):
        loss = (terms[0] * weights).sum() + (terms[1] * weights.flip(0)).sum()
        parameters = list(block.parameters())
        found.append(gradients([loss], [torch.ones_like(loss)], parameters))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("place", ["norm1", "norm2", "stochastic_depth", "attn", "mlp"])
def test_hooks_are_honoured(place) -> None:
    theirs, mine = pair("swin-shift-drop")
    calls: list[str] = []
    mine.get_submodule(place).register_forward_hook(lambda *args: calls.append(place))
    x = draw("swin")
    for a, b in zip(run(mine, x, True), run(theirs, x, False), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    assert calls == [place] * (2 if place == "stochastic_depth" else 1)


def test_stochastic_depth_by_batch_and_other_norms_are_called() -> None:
    theirs, mine = pair("swin-shift-drop")
    for block in (theirs, mine):
        block.stochastic_depth = StochasticDepth(0.5, "batch")
        block.norm2 = nn.RMSNorm(8, dtype=torch.float64)
    x = draw("swin")
    for _ in range(4):
        for a, b in zip(run(mine, x, True), run(theirs, x, False), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_dropped_samples_have_no_energy() -> None:
    block = regularize(swin("", 0, 0.5))
    with collect_energy() as energies:
        block(torch.randn(64, 3, 3, 8))
    for energy in energies.energies:
        assert 16 < (energy == 0).sum() < 48
    attention, mlp = ((energy == 0) for energy in energies.energies)
    assert not torch.equal(attention, mlp)


def test_the_shape_is_checked_as_torchvision_does() -> None:
    with pytest.raises(AssertionError, match="Expected \\(batch_size, seq_length, hidden_dim\\)"):
        RegularizedViTBlock(2, 8, 16, 0.0, 0.0)(torch.randn(9, 8))


@READS_GRAD
@pytest.mark.parametrize("name", ["swin-shift-drop", "vit"])
def test_compiles(name) -> None:
    _, block = pair(name)
    block.eval()
    x = draw(name)
    with collect_energy() as energies:
        expected = block(x)
    with collect_energy() as compiled:
        y = torch.compile(block, fullgraph=True)(x)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(compiled.energies, energies.energies)
