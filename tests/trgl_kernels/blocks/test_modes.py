"""Memory modes train alike: rebuilt activations to the bit, recovered residues to rounding."""

import copy

import pytest
import torch
from oracle import relative_error
from torch import nn
from torch.utils.checkpoint import checkpoint
from torchvision.ops import Permute

from trgl_kernels import (
    RegularizedBasicBlock,
    RegularizedBottleneck,
    RegularizedPreActBlock,
    RegularizedResidual,
    RegularizedSwinBlock,
    collect_energy,
)
from trgl_kernels.blocks import Regularized
from trgl_kernels.collect import checkpoint_contexts

BLOCKS = {
    "basic": lambda: RegularizedBasicBlock(8, 8),
    "bottleneck": lambda: RegularizedBottleneck(8, 2),
    "pre-activation": lambda: RegularizedPreActBlock(8, 8),
}


def swin() -> nn.Module:
    return RegularizedSwinBlock(8, 2, [3, 3], [1, 1], stochastic_depth_prob=0.1)


def chain(name: str, mode: str, seed: int = 0) -> nn.Module:
    """Three blocks and a classifier; the same weights for every mode."""
    torch.manual_seed(seed)
    blocks = [(BLOCKS | {"swin": swin})[name]().with_recompute(mode) for _ in range(3)]
    if name == "swin":
        blocks = [Permute([0, 2, 3, 1]), *blocks, Permute([0, 3, 1, 2])]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))


def train(model: nn.Module, steps: int, penalty: float = 0.5, seed: int = 1) -> list[float]:
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)  # the draws of DropPath
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for _ in range(steps):
        labels = torch.randint(3, (16,), generator=generator)
        images = torch.randn(16, 8, 6, 6, generator=generator) + labels.view(-1, 1, 1, 1)
        with collect_energy() as energies:
            loss = nn.functional.cross_entropy(model(images), labels)
        loss = loss + penalty * energies.total()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("mode", ["residue", "activation"])
@pytest.mark.parametrize("name", ["basic", "bottleneck"])
def test_rebuilt_activations_change_no_bit(name, mode) -> None:
    kept, rebuilt = chain(name, "none"), chain(name, mode)
    assert train(kept, 5) == train(rebuilt, 5)
    assert all(map(torch.equal, kept.state_dict().values(), rebuilt.state_dict().values()))


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    ("name", "modes"), [("pre-activation", ["residue", "activation"]), ("swin", ["residue"])]
)
def test_training_with_recovered_residues_cannot_be_told_apart(name, modes, seed) -> None:
    kept, *recovered = (train(chain(name, mode, seed), 40, seed=seed) for mode in ("none", *modes))
    for losses in recovered:
        # weights one rounding aside give losses that differ by up to 1e-6 of them, recovered
        # residues by 3e-7: ten roundings aside
        assert losses == pytest.approx(kept, rel=1e-5)
    assert kept[-1] < 0.5 * kept[0]


@pytest.mark.parametrize("mode", ["residue", "activation"])
def test_gradients_with_recovered_residues(mode) -> None:
    block = RegularizedPreActBlock(8, 8)
    exact, x = copy.deepcopy(block).double(), torch.randn(4, 8, 6, 6)
    found = []
    for one, entered in ((exact, x.double()), (block, x), (block.with_recompute(mode), x)):
        leaf = entered.clone().requires_grad_()
        with collect_energy() as energies:
            loss = one(leaf).sin().sum() + 3.0 * energies.total("sum")
        found.append(torch.autograd.grad(loss, [leaf, *one.parameters()]))
    for reference, kept, recovered in zip(*found, strict=True):
        assert relative_error(recovered, reference) <= 2 * relative_error(kept, reference) + 1e-6


@pytest.mark.parametrize("name", BLOCKS)
def test_checkpointing_a_block_that_rebuilds(name) -> None:
    x = torch.randn(4, 8, 6, 6, requires_grad=True)
    found = []
    for checkpointed in (False, True):
        torch.manual_seed(0)
        block = BLOCKS[name]().with_recompute("activation")
        with collect_energy() as energies:
            if checkpointed:
                y = checkpoint(block, x, use_reentrant=False, context_fn=checkpoint_contexts)
            else:
                y = block(x)
        loss = y.sin().sum() + energies.total()
        found.append([loss, *torch.autograd.grad(loss, [x, *block.parameters()])])
        assert len(energies) == 1
    assert all(map(torch.equal, *found))


def test_modes_are_chosen_like_energies() -> None:
    block = RegularizedResidual(nn.Linear(4, 4), recompute="residue")
    assert block.recompute == "residue"
    assert block.with_recompute("activation") is block
    assert Regularized.recompute == "none"
    assert RegularizedResidual(nn.Linear(4, 4)).recompute == "none"
    with pytest.raises(ValueError, match="recompute of a block must be one of none, residue"):
        block.with_recompute("everything")


def test_a_shortcut_that_projects_keeps_the_residue() -> None:
    block = RegularizedResidual(nn.Linear(4, 6), nn.Linear(4, 6), recompute="residue")
    x, kept = torch.randn(5, 4), []
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t)
    with hooks, collect_energy():
        block(x)
    r = block.branch(x)
    assert any(t.shape == r.shape and torch.equal(t, r) for t in kept)
