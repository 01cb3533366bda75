"""residual_energy: every engine against float64 and eager PyTorch, and what must always hold."""

import pytest
import torch
from oracle import (
    DEVICE,
    INTERPRETED,
    LAYOUTS,
    READS_GRAD,
    assert_three_way,
    each_end,
    each_path,
    gradients,
    leaf,
    one_thread,
    poisoned_memory,
    rounded,
)
from residual_case import OPTIONS, SHAPES, draw, eager, run
from torch import Tensor

from trgl_kernels import reference, residual_energy


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients(shape, options, dtype, layout) -> None:
    if layout == "channels_last" and len(shape) != 4:
        pytest.skip("channels_last is a layout of four dimensions")
    x, r, given, (grad_y, grad_energy) = draw(shape, OPTIONS[options])
    cotangents = [rounded(grad_y, dtype), grad_energy]
    drawn = (rounded(x, dtype), rounded(r, dtype), given, cotangents)
    exact = run(reference.residual_energy, *drawn, torch.float64, LAYOUTS["contiguous"])
    engine = run(residual_energy, *drawn, dtype, LAYOUTS[layout])
    plain = run(eager, *drawn, dtype, LAYOUTS[layout])
    names = ["y", "energy", "grad_x", "grad_r", "grad_scale"][: len(exact)]
    assert_three_way(names, engine, plain, exact)
    assert engine[0].dtype == dtype
    if len(shape) == 4:
        assert engine[0].is_contiguous(memory_format=LAYOUTS[layout])


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("options", OPTIONS)
def test_gradcheck(options, layout) -> None:
    x, r, options, _ = draw((3, 4, 3, 2), OPTIONS[options])
    x, r = (leaf(t, torch.float64, layout) for t in (x, r))
    scale = options.pop("scale", None)
    if scale is None:
        assert torch.autograd.gradcheck(lambda x, r: residual_energy(x, r, **options), (x, r))
    else:
        scale.requires_grad_()
        assert torch.autograd.gradcheck(
            lambda x, r, s: residual_energy(x, r, scale=s, **options), (x, r, scale)
        )


@READS_GRAD
@each_end
@pytest.mark.parametrize("options", ["plain", "scale-keep-relu"])
@pytest.mark.parametrize(("with_energy", "recover"), [(True, False), (False, False), (True, True)])
def test_opcheck(options, with_energy, recover, dtype, layout) -> None:
    x, r, options, _ = draw((3, 4, 5, 2), OPTIONS[options])
    args = (
        leaf(x, dtype, layout),
        leaf(r, dtype, layout),
        options.get("activation", "none"),
        options["scale"].float().requires_grad_() if "scale" in options else None,
        options["keep"].float() if "keep" in options else None,
        2.0,
        with_energy,
        recover,
    )
    torch.library.opcheck(torch.ops.trgl.residual_energy.default, args)


@pytest.mark.parametrize("mask", [[True, True, True], [False, True, False], [True, False, True]])
def test_opcheck_backward(mask) -> None:
    x, r, options, (grad_y, grad_energy) = draw((3, 4, 5, 2), OPTIONS["scale-keep-relu"])
    y, _ = reference.residual_energy(x, r, **options)
    args = (grad_y, grad_energy, y, r, None, options["scale"], options["keep"], "relu", 2.0)
    args = tuple(a.float() if isinstance(a, Tensor) else a for a in args)
    torch.library.opcheck(
        torch.ops.trgl.residual_energy_backward.default, (*args, torch.float32, mask)
    )


@each_path
def test_compiles_without_a_graph_break(dtype, layout) -> None:
    drawn = draw((4, 6, 5, 5), OPTIONS["scale-keep-relu"])
    compiled = torch.compile(residual_energy, fullgraph=True)
    ours = run(residual_energy, *drawn, dtype, layout)
    theirs = run(compiled, *drawn, dtype, layout)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)
        assert a.stride() == b.stride()


def test_mixed_types_are_promoted() -> None:
    x, r, _, (grad_y, grad_energy) = draw((3, 5, 4, 4), {})
    x, r = x.float().requires_grad_(), r.bfloat16().requires_grad_()
    y, energy = residual_energy(x, r, activation="relu")
    assert (y.dtype, energy.dtype) == (torch.float32, torch.float32)
    torch.testing.assert_close(y, torch.relu(x + r.float()))
    grad_x, grad_r = gradients([y, energy], [grad_y.float(), grad_energy.float()], [x, r])
    assert (grad_x.dtype, grad_r.dtype) == (torch.float32, torch.bfloat16)
    half, energy = residual_energy(x.half(), r, activation="none")
    assert half.dtype == torch.float32


def test_layouts_that_are_not_dense() -> None:
    x = torch.randn(3, 9, 6, 8)[:, ::2, :, 1::2].requires_grad_()
    r = torch.randn(8, 6, 5, 3).permute(3, 2, 1, 0)[..., ::2].requires_grad_()
    y, energy = residual_energy(x, r, activation="relu")
    torch.testing.assert_close(y, torch.relu(x + r))
    torch.testing.assert_close(energy, (r * r).sum((1, 2, 3)))
    grad = torch.randn(3, 5, 8, 6).transpose(2, 3)[..., ::2]
    found = torch.autograd.grad([y, energy], [x, r], [grad, torch.ones(3)])
    expected = torch.where(y > 0, grad, 0.0)
    torch.testing.assert_close(found[0], expected)
    torch.testing.assert_close(found[1], expected + 2 * r)


def test_expanded_gradients() -> None:
    x = torch.randn(3, 5, 4, 4, requires_grad=True)
    r = torch.randn(3, 5, 4, 4, requires_grad=True)
    y, energy = residual_energy(x, r, activation="relu")
    found = torch.autograd.grad(y.sum() + energy.mean(), [x, r])
    mask = (y > 0).float()
    torch.testing.assert_close(found[0], mask)
    torch.testing.assert_close(found[1], mask + 2 * r / 3)


@pytest.mark.parametrize("shape", [(0, 4, 3, 3), (2, 0, 3, 3), (3, 4, 0, 2), (0, 5)], ids=str)
def test_empty_inputs(shape) -> None:
    x, r = torch.zeros(shape, requires_grad=True), torch.zeros(shape, requires_grad=True)
    y, energy = residual_energy(x, r)
    assert y.shape == shape
    torch.testing.assert_close(energy, torch.zeros(shape[0]))
    (y.sum() + energy.sum()).backward()
    assert r.grad is not None
    assert r.grad.shape == shape


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0])
def test_a_zero_residue_has_no_energy_and_no_slope(p) -> None:
    x, r = torch.randn(2, 3, 4, 4), torch.zeros(2, 3, 4, 4, requires_grad=True)
    y, energy = residual_energy(x, r, p=p)
    assert torch.equal(y, x)
    assert torch.equal(energy, torch.zeros(2))
    energy.sum().backward()
    assert torch.equal(r.grad, torch.zeros_like(r))


def test_scaling_the_residue_scales_the_energy_by_its_power() -> None:
    x, r = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    for p in (1.0, 2.0, 3.0):
        _, energy = residual_energy(x, r, p=p)
        _, larger = residual_energy(x, 2.0 * r, p=p)
        torch.testing.assert_close(larger, 2.0**p * energy)


def test_samples_do_not_mix() -> None:
    x, r, order = torch.randn(4, 3, 5, 5), torch.randn(4, 3, 5, 5), torch.tensor([2, 0, 3, 1])
    y, energy = residual_energy(x, r, activation="relu")
    shuffled = residual_energy(x[order], r[order], activation="relu")
    assert torch.equal(shuffled[0], y[order])
    assert torch.equal(shuffled[1], energy[order])


def test_the_energy_is_that_of_the_keep_and_scale_residue() -> None:
    r, scale = torch.randn(3, 4, 2, 2), torch.rand(4)
    keep = torch.tensor([0.0, 2.0, 2.0])
    _, energy = residual_energy(torch.zeros_like(r), r, scale=scale, keep=keep)
    q = r * scale[:, None, None] * keep[:, None, None, None]
    torch.testing.assert_close(energy, q.square().sum((1, 2, 3)))
    assert energy[0] == 0


@pytest.mark.parametrize(
    ("shape", "scale"),
    [((2, 3, 5, 4), (3, 1, 1)), ((2, 3, 5, 4), (1, 1, 1, 4)), ((2, 3, 5), (3, 1))],
)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_scale_with_a_broadcastable_shape(shape, scale, layout) -> None:
    x, r = torch.randn(shape), torch.randn(shape)
    if len(shape) == 4:
        x, r = (t.contiguous(memory_format=LAYOUTS[layout]) for t in (x, r))
    factor = (torch.rand(scale) + 0.5).requires_grad_()
    y, energy = residual_energy(x, r, scale=factor)
    torch.testing.assert_close(y, x + factor * r)
    (found,) = torch.autograd.grad(y.sum() + energy.sum(), factor, retain_graph=True)
    q = x + factor * r, ((factor * r) ** 2).sum()
    (expected,) = torch.autograd.grad(q[0].sum() + q[1], factor)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_nan_and_infinity_propagate(dtype) -> None:
    x = torch.tensor([[float("nan"), 1.0, float("inf"), -float("inf"), 2.0]], dtype=dtype)
    r = torch.tensor([[1.0, float("nan"), 1.0, 1.0, -3.0]], dtype=dtype)
    y, energy = residual_energy(x, r, activation="relu")
    assert torch.equal(y.isnan(), torch.relu(x + r).isnan())
    assert y[0, 2] == float("inf")
    assert y[0, 3] == 0
    assert y[0, 4] == 0
    assert energy.isnan().all()


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 3.0])
def test_the_slope_at_nan_is_that_of_pytorch(p) -> None:
    r = torch.tensor([[1.0, float("nan"), 0.0, -2.0, float("inf")] * 5]).requires_grad_()
    (found,) = torch.autograd.grad(residual_energy(torch.zeros_like(r), r, p=p)[1].sum(), r)
    (expected,) = torch.autograd.grad(r.abs().pow(p).sum(), r)
    torch.testing.assert_close(found, expected, equal_nan=True)


@pytest.mark.skipif(DEVICE != "cpu", reason="a setting of the CPU")
def test_subnormal_halves_are_read_where_floats_are_flushed() -> None:
    r = torch.tensor([[6e-8, 3e-6, -6e-5, 6.2e-5, 1.0] * 5]).half()
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor flushes nothing")
    try:
        y, _ = residual_energy(torch.zeros_like(r), r)
    finally:
        torch.set_flush_denormal(False)
    assert torch.equal(y, r)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_runs_are_bitwise_equal_whatever_the_threads(layout, dtype) -> None:
    shape = (2, 3, 5, 5) if INTERPRETED else (3, 16, 60, 60)
    drawn = draw(shape, OPTIONS["scale-keep-relu"])
    first = run(residual_energy, *drawn, dtype, layout)
    with one_thread():
        second = run(residual_energy, *drawn, dtype, layout)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_nothing_is_read_before_it_is_written(layout, dtype) -> None:
    drawn = draw((3, 5, 7, 3), OPTIONS["scale-keep-relu"])
    plain = run(residual_energy, *drawn, dtype, layout)
    with poisoned_memory():
        poisoned = run(residual_energy, *drawn, dtype, layout)
    assert all(torch.equal(a, b) for a, b in zip(plain, poisoned, strict=True))
