"""residual_energy_layer_norm: what autograd asks for, is given, keeps and is refused."""

import pytest
import torch
from layer_norm_case import OP, OPTIONS, VECTORS, draw, run
from oracle import (
    DEVICE,
    FORWARD_MODE_SCRIPTS,
    INTERPRETED,
    gradients,
    saved_bytes,
)
from torch import Tensor

from trgl_kernels import reference, residual_energy_layer_norm


@pytest.mark.parametrize("wanted", ["x", "r", *VECTORS])
@pytest.mark.parametrize("used", [0, 1, 2], ids=["y", "normed", "energy"])
def test_only_what_is_wanted_is_computed(wanted, used) -> None:
    x, r, options, cotangents = draw((3, 4, 7), OPTIONS["scale-keep"])
    tensors = {"x": x, "r": r} | {name: options.pop(name) for name in VECTORS}

    def gradient(function) -> Tensor:
        inputs = {k: v.float().requires_grad_(k == wanted) for k, v in tensors.items()}
        output = function(**inputs, **options)[used]
        if not output.requires_grad:
            return torch.zeros_like(inputs[wanted])
        return gradients([output], [cotangents[used].float()], [inputs[wanted]])[0]

    found = gradient(residual_energy_layer_norm)
    torch.testing.assert_close(found, gradient(reference.residual_energy_layer_norm))


def test_undefined_gradients_are_not_passed_on() -> None:
    x, r, weight, bias = (
        torch.randn(s, requires_grad=True) for s in ((2, 3, 4), (2, 3, 4), (4,), (4,))
    )
    y, _, energy = residual_energy_layer_norm(x, r, weight, bias)
    found = torch.autograd.grad(
        energy.sum(), [x, r, weight, bias], retain_graph=True, allow_unused=True
    )
    assert [g is None for g in found] == [True, False, True, True]
    torch.testing.assert_close(found[1], 2 * r.detach())
    grad = torch.randn(2, 3, 4)
    found = torch.autograd.grad(y, [x, r, weight, bias], grad, allow_unused=True)
    assert [g is None for g in found] == [False, False, True, True]
    assert torch.equal(found[0], grad)
    assert torch.equal(found[1], grad)


def branch_and_norm(with_energy: bool, recover: bool, **options):
    """A block's step, whose residue is an intermediate result, and the bytes that it saves."""
    x = torch.randn(4, 6, 8, requires_grad=True)
    branch = torch.nn.Linear(8, 8)
    weight, bias = torch.rand(8, requires_grad=True), torch.rand(8, requires_grad=True)

    def function(x, *_):
        r = branch(x)
        given = (weight, bias, 1e-5, options.get("scale"), None, options.get("p", 2.0))
        return OP(x, r, *given, with_energy, recover)[:3]

    return saved_bytes(function, x, weight, bias, *branch.parameters(), *options.get("known", ()))


ROWS, MAP = 2 * 4 * 6 * 4, 4 * 6 * 8 * 4  # bytes of mean and rstd, and of one map


def test_saves_two_vectors_beyond_inputs_and_outputs() -> None:
    x, r = (torch.randn(4, 6, 8, requires_grad=True) for _ in range(2))
    weight, bias = (torch.rand(8, requires_grad=True) for _ in range(2))
    assert saved_bytes(residual_energy_layer_norm, x, r, weight, bias) == ROWS


@pytest.mark.parametrize(
    ("with_energy", "recover", "maps"), [(True, False, 1), (True, True, 0), (False, False, 0)]
)
def test_the_residue_is_kept_only_where_it_is_read(with_energy, recover, maps) -> None:
    assert branch_and_norm(with_energy, recover) == ROWS + maps * MAP


def test_the_residue_is_kept_where_it_cannot_be_recovered() -> None:
    scale = torch.rand(8, requires_grad=True)
    assert branch_and_norm(True, True, scale=scale, known=(scale,)) == ROWS + MAP
    assert branch_and_norm(True, True, scale=scale.detach(), known=(scale,)) == ROWS
    assert branch_and_norm(True, True, p=1.5) == ROWS + MAP


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_recovered_residue_gives_the_same_gradient(dtype) -> None:
    x, r = (torch.randn(3, 7, 20, dtype=dtype, requires_grad=True) for _ in range(2))
    keep, scale = torch.tensor([0.0, 1.25, 1.25]), torch.rand(20)
    cotangents = [torch.randn(3, 7, 20, dtype=dtype) for _ in range(2)]
    cotangents.append(torch.tensor([2.0, -1.0, 3.0]))

    def run(recover) -> tuple[Tensor, list[Tensor]]:
        y, normed, energy, *_ = OP(x, r, None, None, 1e-5, scale, keep, 2.0, True, recover)
        given = [c.to(o.dtype) for c, o in zip(cotangents, (y, normed, energy), strict=True)]
        return y, gradients([y, normed, energy], given, [x, r])

    (y, kept), (_, recovered) = run(False), run(True)
    assert torch.equal(kept[0], recovered[0])
    if dtype == torch.bfloat16:
        assert torch.equal(kept[1], recovered[1])
        return
    unit = torch.finfo(dtype).eps * torch.maximum(x.abs(), y.abs())
    slope = reference.along(cotangents[2] * keep, x, 0, dtype).abs() * scale
    bound = 2.0 * slope * unit + 4 * torch.finfo(dtype).eps * kept[1].abs()
    assert ((kept[1] - recovered[1]).abs() <= bound).all()


def test_without_energy_the_rest_is_the_same() -> None:
    x, r, given, cotangents = draw((3, 5, 12), OPTIONS["scale-keep"])

    def function(x, r, weight, bias, scale, keep):
        y, normed, energy, *_ = OP(x, r, weight, bias, 1e-5, scale, keep, 2.0, False, False)
        assert energy.shape == (0,)
        assert not energy.requires_grad
        return y, normed, torch.zeros(3, requires_grad=True)

    cotangents[2] = torch.zeros(3)
    with_energy = run(residual_energy_layer_norm, x, r, given, cotangents, torch.float32)
    without = run(function, x, r, given, cotangents, torch.float32)
    for name in set(with_energy) - {"energy"}:
        torch.testing.assert_close(with_energy[name], without[name])


def test_double_backward_is_refused() -> None:
    x, r = (torch.randn(2, 3, requires_grad=True) for _ in range(2))
    _, _, energy = residual_energy_layer_norm(x, r, None, None)
    with pytest.raises(RuntimeError, match="no derivative of its own"):
        torch.autograd.grad(energy.sum(), r, create_graph=True)


@FORWARD_MODE_SCRIPTS
def test_forward_mode_is_refused() -> None:
    x, r = torch.randn(2, 3), torch.randn(2, 3)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(r, torch.ones_like(r))
        with pytest.raises(RuntimeError, match=r"forward|jvp"):
            residual_energy_layer_norm(x, dual, None, None)


def test_autocast_changes_nothing() -> None:
    x, r = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    outside = residual_energy_layer_norm(x, r, None, None, p=1.5)
    with torch.autocast(DEVICE, torch.bfloat16):
        inside = residual_energy_layer_norm(x, r, None, None, p=1.5)
    assert all(torch.equal(a, b) for a, b in zip(outside, inside, strict=True))


def test_long_sums_of_one_sign_keep_their_digits() -> None:
    rows, width = (20, 40) if INTERPRETED else (700, 1400)
    r = torch.full((1, rows, width), 0.3)
    bias, grad = torch.zeros(width, requires_grad=True), torch.full((1, rows, width), 0.3)
    _, normed, energy = residual_energy_layer_norm(torch.zeros_like(r), r, None, bias)
    exact = r.double().square().sum((1, 2))
    assert abs(energy.double() / exact - 1).max() < 3e-7
    (found,) = torch.autograd.grad(normed, bias, grad)
    assert abs(found.double() / grad.double().sum((0, 1)) - 1).max() < 1e-6
