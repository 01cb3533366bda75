"""RegularizedResidual: any branch, any shortcut."""

import pytest
import torch
from torch import nn

from trgl_kernels import RegularizedResidual, collect_energy


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


def test_mistakes_are_explained() -> None:
    with pytest.raises(ValueError, match="activation must be one of none, relu; received 'gelu'"):
        RegularizedResidual(nn.Identity(), activation="gelu")
    with pytest.raises(ValueError, match="energy of a block must be one of residue, displacement"):
        RegularizedResidual(nn.Identity(), energy="module")
    with pytest.raises(ValueError, match="x and r must have the same shape"):
        RegularizedResidual(nn.Linear(6, 4))(torch.randn(5, 6))
