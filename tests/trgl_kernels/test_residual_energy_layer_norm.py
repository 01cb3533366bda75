"""residual_energy_layer_norm: every engine against float64, eager PyTorch and torch's LayerNorm."""

import pytest
import torch
import torch.nn.functional as F
from layer_norm_case import BACKWARD, OP, OPTIONS, SHAPES, VECTORS, draw, eager, run
from oracle import (
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
    relative_error,
    rounded,
)
from torch import Tensor

from trgl_kernels import reference, residual_energy_layer_norm

# inputs as a model may hand them over: rows of C numbers that do not lie one behind the other
VIEWS = {
    "rows": lambda t: t,
    "transposed": lambda t: t.transpose(1, 3).contiguous().transpose(1, 3),
    "strided": lambda t: torch.stack((t, t), -1).flatten(-2)[..., ::2],
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        (shape, name)
        for shape in SHAPES
        for name in LAYOUTS
        if name == "contiguous" or len(shape) == 4
    ],
    ids=str,
)
def test_values_and_gradients(shape, layout, options, dtype) -> None:
    x, r, given, (grad_y, grad_normed, grad_energy) = draw(shape, OPTIONS[options])
    cotangents = [rounded(grad_y, dtype), rounded(grad_normed, dtype), grad_energy]
    drawn = (rounded(x, dtype), rounded(r, dtype), given, cotangents)
    exact = run(reference.residual_energy_layer_norm, *drawn, torch.float64)
    engine = run(residual_energy_layer_norm, *drawn, dtype, LAYOUTS[layout])
    plain = run(eager, *drawn, dtype, LAYOUTS[layout])
    assert_three_way(list(exact), *[list(found.values()) for found in (engine, plain, exact)])
    assert engine["y"].dtype == engine["normed"].dtype == dtype
    assert engine["y"].is_contiguous()
    assert engine["normed"].is_contiguous()


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("options", OPTIONS)
def test_gradcheck(options, layout) -> None:
    x, r, options, _ = draw((3, 4, 2, 5), OPTIONS[options])
    x, r = (leaf(t, torch.float64, layout) for t in (x, r))
    names = [name for name in VECTORS if options.get(name) is not None]
    vectors = [options.pop(name).requires_grad_() for name in names]

    def function(x, r, *vectors):
        given = {"weight": None, "bias": None, **options, **dict(zip(names, vectors, strict=True))}
        return residual_energy_layer_norm(x, r, **given)

    assert torch.autograd.gradcheck(function, (x, r, *vectors))


def arguments_of(options: dict, dtype, layout, *flags: bool) -> tuple:
    """The operator's arguments, all differentiable ones requiring gradient."""
    x, r, given, _ = draw((3, 4, 2, 5), options)
    given = {"scale": None, "keep": None, **given}
    for name in VECTORS:
        given[name] = None if given[name] is None else given[name].float().requires_grad_()
    keep = None if given["keep"] is None else given["keep"].float()
    vectors = (given["weight"], given["bias"], 1e-5, given["scale"], keep)
    return leaf(x, dtype, layout), leaf(r, dtype, layout), *vectors, 2.0, *flags


@READS_GRAD
@each_end
@pytest.mark.parametrize("options", ["affine", "no-affine", "scale-keep"])
@pytest.mark.parametrize("with_energy", [True, False])
@pytest.mark.parametrize("recover", [True, False])
def test_opcheck(options, with_energy, recover, dtype, layout) -> None:
    torch.library.opcheck(OP, arguments_of(OPTIONS[options], dtype, layout, with_energy, recover))


@pytest.mark.parametrize(
    "mask",
    [[True] * 5, [False, True, False, True, False], [True, False, True, False, False], [False] * 5],
)
@pytest.mark.parametrize("recovered", [True, False])
@pytest.mark.parametrize("options", ["scale-keep", "affine"])
@pytest.mark.parametrize("given", [3, 1], ids=["all-gradients", "grad-y"])
def test_opcheck_backward(mask, recovered, options, given) -> None:
    x, r, options, cotangents = draw((3, 4, 2, 5), OPTIONS[options])
    cotangents = [c if i < given else None for i, c in enumerate(cotangents)]
    options = {"scale": None, "keep": None, **options}
    mask = [*mask[:4], mask[4] and not recovered]
    y, _, _, mean, rstd = reference.residual_energy_layer_norm(x, r, **options)
    residue = (None, x) if recovered else (r, None)
    args = (*cotangents, y, *residue, options["weight"], options["bias"], mean, rstd)
    args = (*args, options["scale"], options["keep"])
    args = tuple(a.float() if isinstance(a, Tensor) else a for a in args)
    torch.library.opcheck(BACKWARD, (*args, 2.0, torch.float32, torch.float32, mask))


@each_path
def test_compiles_without_a_graph_break(dtype, layout) -> None:
    drawn = draw((4, 6, 5, 12), OPTIONS["scale-keep"])
    compiled = torch.compile(residual_energy_layer_norm, fullgraph=True)
    ours = run(residual_energy_layer_norm, *drawn, dtype, layout)
    theirs = run(compiled, *drawn, dtype, layout)
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name])
        assert ours[name].stride() == theirs[name].stride()


def test_mixed_types_are_promoted() -> None:
    x, r, options, cotangents = draw((3, 5, 4, 8), {})
    x, r = x.float().requires_grad_(), r.bfloat16().requires_grad_()
    weight, bias = options["weight"].half().requires_grad_(), options["bias"].bfloat16()
    y, normed, energy = residual_energy_layer_norm(x, r, weight, bias.requires_grad_())
    assert (y.dtype, normed.dtype, energy.dtype) == (torch.float32,) * 3
    torch.testing.assert_close(y, x + r.float())
    expected = F.layer_norm(y, (8,), weight.float(), bias.float())
    torch.testing.assert_close(normed, expected)
    inputs = [x, r, weight, bias]
    found = gradients([y, normed, energy], [c.float() for c in cotangents], inputs)
    assert [g.dtype for g in found] == [t.dtype for t in inputs]
    wide = [t.detach().double().requires_grad_() for t in inputs]
    exact = gradients([*eager(*wide)], cotangents, wide)
    for a, b, bound in zip(found, exact, (1e-5, 5e-3, 1e-3, 5e-3), strict=True):
        assert relative_error(a, b) < bound
    assert residual_energy_layer_norm(x.half(), r, None, None)[1].dtype == torch.float32


def test_statistics_are_those_of_the_stored_sum() -> None:
    x, r = torch.randn(4, 9, 16).bfloat16() + 30.0, torch.randn(4, 9, 16).bfloat16()
    y, normed, _, mean, rstd = OP(x, r, None, None, 1e-5, None, None, 2.0, True, False)
    rows = y.double()
    torch.testing.assert_close(mean.double(), rows.mean(-1), rtol=1e-6, atol=1e-6)
    var = rows.var(-1, correction=0)
    torch.testing.assert_close(rstd.double(), (var + 1e-5).rsqrt(), rtol=1e-5, atol=0.0)
    expected = (rows - rows.mean(-1, keepdim=True)) * (var + 1e-5).rsqrt()[..., None]
    torch.testing.assert_close(normed.double(), expected, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("mean", [0.0, 1e3, -1e4])
def test_statistics_of_values_far_from_zero(mean) -> None:
    x, r = torch.randn(4, 5, 768) + mean, torch.zeros(4, 5, 768)
    _, _, _, found, rstd = OP(x, r, None, None, 1e-5, None, None, 2.0, False, False)
    exact, var = x.double().mean(-1), x.double().var(-1, correction=0)
    # the mean to one unit in its last place, and that unit is what deviations are known to
    assert ((found.double() - exact).abs() <= 2.0**-23 * exact.abs() + 1e-7).all()
    torch.testing.assert_close(
        rstd.double(), (var + 1e-5).rsqrt(), rtol=1e-6 + 4e-9 * abs(mean), atol=0.0
    )


def test_layouts_that_are_not_dense() -> None:
    x = torch.randn(3, 9, 6, 8)[:, ::2, :, 1::2].requires_grad_()
    r = torch.randn(8, 6, 5, 3).permute(3, 2, 1, 0)[..., ::2].requires_grad_()
    weight, bias = torch.randn(8)[::2], torch.randn(1).expand(4)
    cotangents = [torch.randn(3, 5, 4, 6).transpose(2, 3), torch.ones(1).expand(3, 5, 6, 4)]
    cotangents.append(torch.tensor([[2.0, 1.0, 3.0]] * 2).T[:, 0])
    outputs = residual_energy_layer_norm(x, r, weight, bias)
    expected = eager(x, r, weight, bias)
    torch.testing.assert_close(outputs, expected)
    found = gradients(outputs, cotangents, [x, r])
    torch.testing.assert_close(found, gradients(expected, cotangents, [x, r]))


def test_expanded_gradients() -> None:
    x, r = (torch.randn(3, 5, 4, requires_grad=True) for _ in range(2))
    weight = torch.randn(4, requires_grad=True)

    def found(function) -> list[Tensor]:
        y, normed, energy = function(x, r, weight, None)
        return list(torch.autograd.grad(y.sum() + normed.sum() + energy.mean(), [x, r, weight]))

    torch.testing.assert_close(found(residual_energy_layer_norm), found(eager))


@pytest.mark.parametrize("shape", [(0, 4, 3), (2, 0, 3), (3, 4, 0), (0, 5), (2, 0, 0)], ids=str)
def test_empty_inputs(shape) -> None:
    x, r = (torch.zeros(shape, requires_grad=True) for _ in range(2))
    weight, bias, scale = (torch.ones(shape[-1], requires_grad=True) for _ in range(3))
    y, normed, energy = residual_energy_layer_norm(x, r, weight, bias, scale=scale)
    assert y.shape == normed.shape == shape
    torch.testing.assert_close(energy, torch.zeros(shape[0]))
    (y.sum() + normed.sum() + energy.sum()).backward()
    assert x.grad.shape == r.grad.shape == shape
    for vector in (weight, bias, scale):
        assert torch.equal(vector.grad, torch.zeros(shape[-1]))


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0])
def test_a_zero_residue_has_no_energy_and_no_slope(p) -> None:
    x, r = torch.randn(2, 3, 4), torch.zeros(2, 3, 4, requires_grad=True)
    y, _, energy = residual_energy_layer_norm(x, r, None, None, p=p)
    assert torch.equal(y, x)
    assert torch.equal(energy, torch.zeros(2))
    energy.sum().backward()
    assert torch.equal(r.grad, torch.zeros_like(r))


def test_the_norm_of_a_scaled_and_shifted_stream_is_the_same() -> None:
    x, r = torch.randn(2, 3, 32), torch.randn(2, 3, 32)
    _, normed, energy = residual_energy_layer_norm(x, r, None, None, eps=0.0)
    _, same, larger = residual_energy_layer_norm(3.0 * x + 5.0, 3.0 * r, None, None, eps=0.0)
    torch.testing.assert_close(same, normed, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(larger, 9.0 * energy)
    torch.testing.assert_close(normed.mean(-1), torch.zeros(2, 3), rtol=0.0, atol=1e-6)
    torch.testing.assert_close(normed.square().mean(-1), torch.ones(2, 3))


def test_samples_do_not_mix() -> None:
    x, r, order = torch.randn(4, 3, 5), torch.randn(4, 3, 5), torch.tensor([2, 0, 3, 1])
    outputs = residual_energy_layer_norm(x, r, None, None)
    shuffled = residual_energy_layer_norm(x[order], r[order], None, None)
    for a, b in zip(outputs, shuffled, strict=True):
        assert torch.equal(a[order], b)


@pytest.mark.parametrize("shape", [(6,), (1, 6), (1, 1, 6), (1, 1, 1, 6)], ids=str)
def test_a_scale_belongs_to_the_last_dimension(shape) -> None:
    x, r = torch.randn(2, 3, 4, 6), torch.randn(2, 3, 4, 6)
    scale = (torch.rand(shape) + 0.5).requires_grad_()
    y, _, energy = residual_energy_layer_norm(x, r, None, None, scale=scale)
    torch.testing.assert_close(y, x + scale * r)
    (found,) = torch.autograd.grad(y.sum() + energy.sum(), scale)
    q = scale * r
    (expected,) = torch.autograd.grad(q.sum() + q.square().sum(), scale)
    assert found.shape == shape
    torch.testing.assert_close(found, expected)


# the interpreter computes with NumPy, which warns of ∞ − ∞
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_nan_and_infinity_propagate(dtype) -> None:
    x, r = torch.randn(4, 3, 6).to(dtype), torch.randn(4, 3, 6).to(dtype)
    x[0, 1, 2], x[1, 0, 0], r[2, 2, 5], r[3, 0, 1] = (
        float(value) for value in ("nan", "inf", "nan", "-inf")
    )
    outputs, expected = (f(x, r, None, None) for f in (residual_energy_layer_norm, eager))
    for a, b in zip(outputs, expected, strict=True):
        assert torch.equal(a.isnan(), b.isnan())
        assert torch.equal(a.isinf(), b.isinf())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_runs_are_bitwise_equal_whatever_the_threads(dtype) -> None:
    shape = (2, 3, 5) if INTERPRETED else (3, 500, 96)
    drawn = draw(shape, OPTIONS["scale-keep"])
    first = run(residual_energy_layer_norm, *drawn, dtype)
    with one_thread():
        second = run(residual_energy_layer_norm, *drawn, dtype)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("options", ["no-affine", "scale-keep"])
def test_nothing_is_read_before_it_is_written(options, view, dtype) -> None:
    drawn = draw((3, 5, 7, 19), OPTIONS[options])

    def viewed(x: Tensor, r: Tensor, **given) -> list[Tensor]:
        return residual_energy_layer_norm(VIEWS[view](x), VIEWS[view](r), **given)

    plain = run(viewed, *drawn, dtype)
    with poisoned_memory():
        poisoned = run(viewed, *drawn, dtype)
    assert all(torch.equal(plain[name], poisoned[name]) for name in plain)
