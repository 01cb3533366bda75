"""RegularizedResidual: any branch, any shortcut."""

import pytest
import torch
from torch import nn

from trgl_kernels import RegularizedResidual, collect_energy
from trgl_kernels.blocks import Regularized


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
