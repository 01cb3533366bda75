"""residual_energy: what autograd asks for, is given, keeps and is refused."""

import pytest
import torch
from oracle import (
    DEVICE,
    FORWARD_MODE_SCRIPTS,
    INTERPRETED,
    gradients,
    saved_bytes,
)
from residual_case import OPTIONS, draw
from torch import Tensor

from trgl_kernels import reference, residual_energy


@pytest.mark.parametrize("wanted", ["x", "r", "scale"])
@pytest.mark.parametrize("used", ["y", "energy"])
def test_only_what_is_wanted_is_computed(wanted, used) -> None:
    x, r, options, cotangents = draw((3, 4, 5, 5), OPTIONS["scale-keep-relu"])
    tensors = {"x": x, "r": r, "scale": options.pop("scale")}

    def gradient(function) -> Tensor:
        inputs = {k: v.detach().requires_grad_(k == wanted) for k, v in tensors.items()}
        y, energy = function(inputs["x"], inputs["r"], scale=inputs["scale"], **options)
        output, cotangent = (y, cotangents[0]) if used == "y" else (energy, cotangents[1])
        if not output.requires_grad:
            return torch.zeros_like(inputs[wanted])
        return gradients([output], [cotangent], [inputs[wanted]])[0]

    torch.testing.assert_close(gradient(residual_energy), gradient(reference.residual_energy))


def test_saves_nothing_beyond_inputs_and_outputs() -> None:
    x, r = (torch.randn(4, 8, 6, 6, requires_grad=True) for _ in range(2))
    for activation in ("none", "relu"):
        assert (
            saved_bytes(lambda x, r, a=activation: residual_energy(x, r, activation=a), x, r) == 0
        )


def test_double_backward_is_refused() -> None:
    x, r = (torch.randn(2, 3, requires_grad=True) for _ in range(2))
    _, energy = residual_energy(x, r)
    with pytest.raises(RuntimeError, match="no derivative of its own"):
        torch.autograd.grad(energy.sum(), r, create_graph=True)


def test_autocast_changes_nothing() -> None:
    x, r = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    outside = residual_energy(x, r, p=1.5)
    with torch.autocast(DEVICE, torch.bfloat16):
        inside = residual_energy(x, r, p=1.5)
    assert all(torch.equal(a, b) for a, b in zip(outside, inside, strict=True))


def test_without_energy_a_relu_saves_its_output_alone() -> None:
    x = torch.randn(4, 8, 6, 6, requires_grad=True)
    branch = torch.nn.Conv2d(8, 8, 1)

    def function(x: Tensor) -> list[Tensor]:
        r = branch(x)
        return [
            torch.ops.trgl.residual_energy.default(x, r, "relu", None, None, 2.0, False, False)[0]
        ]

    assert saved_bytes(lambda x, *_: function(x), x, *branch.parameters()) == 0
    (y,) = function(x)
    expected = torch.autograd.grad(torch.relu(x + branch(x)).square().sum(), x)
    torch.testing.assert_close(torch.autograd.grad(y.square().sum(), x), expected)


def test_the_energy_alone_gives_no_gradient_to_the_shortcut() -> None:
    x, r = (torch.randn(2, 3, 4, 4, requires_grad=True) for _ in range(2))
    _, energy = residual_energy(x, r, activation="relu")
    found = torch.autograd.grad(energy.sum(), [x, r], allow_unused=True)
    assert found[0] is None
    torch.testing.assert_close(found[1], 2 * r.detach())


@FORWARD_MODE_SCRIPTS
def test_forward_mode_is_refused() -> None:
    x, r = torch.randn(2, 3), torch.randn(2, 3)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(r, torch.ones_like(r))
        with pytest.raises(RuntimeError, match=r"forward|jvp"):
            residual_energy(x, dual)


def test_long_sums_of_one_sign_keep_their_digits() -> None:
    side = 32 if INTERPRETED else 700
    r = torch.full((1, 2, side, side), 0.3)
    _, energy = residual_energy(torch.zeros_like(r), r)
    exact = r.double().square().sum((1, 2, 3))
    assert abs(energy.double() / exact - 1).max() < 3e-7
