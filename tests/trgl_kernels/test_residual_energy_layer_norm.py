"""residual_energy_layer_norm: every engine against float64, eager PyTorch and torch's LayerNorm."""

import pytest
import torch
import torch.nn.functional as F
from oracle import (
    FORWARD_MODE_SCRIPTS,
    INTERPRETED,
    LAYOUTS,
    READS_GRAD,
    assert_three_way,
    gradients,
    leaf,
    relative_error,
    rounded,
    saved_bytes,
)
from torch import Tensor

from trgl_kernels import reference, residual_energy_layer_norm

OP = torch.ops.trgl.residual_energy_layer_norm.default
BACKWARD = torch.ops.trgl.residual_energy_layer_norm_backward.default

SHAPES = [(5, 7), (3, 11, 6), (2, 3, 5, 7), (2, 4, 4, 16), (3, 1, 130), (2, 3, 2, 3, 4)]
if not INTERPRETED:
    SHAPES += [(3, 197, 96), (2, 5, 3001), (300, 64)]

OPTIONS = {
    "affine": {},
    "no-affine": {"weight": False, "bias": False},
    "no-bias": {"bias": False, "eps": 1e-2},
    "scale": {"scale": True},
    "keep": {"keep": True},
    "scale-keep": {"scale": True, "keep": True},
    "p1-no-weight": {"p": 1.0, "weight": False},
    "p1.5-keep": {"p": 1.5, "keep": True},
    "p3-scale": {"p": 3.0, "scale": True},
}
VECTORS = ("weight", "bias", "scale")


def draw(shape: tuple[int, ...], options: dict) -> tuple[Tensor, Tensor, dict, list[Tensor]]:
    """Inputs, options and cotangents in float64; means far from 0, so that they matter."""
    generator = torch.Generator().manual_seed(hash(shape) % 1000)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    c = shape[-1]
    drawn = {
        "weight": normal(c) + 0.5 if options.get("weight", True) else None,
        "bias": normal(c) if options.get("bias", True) else None,
    }
    if options.get("scale"):
        drawn["scale"] = normal(c).abs() + 0.2
    if options.get("keep"):
        drawn["keep"] = (torch.arange(shape[0]) % 3 != 0).double() * 1.25
    drawn |= {k: v for k, v in options.items() if k in ("eps", "p")}
    x = normal(*shape) + 2.0 * normal(*shape[:-1], 1)
    # uneven weights, so that a mistake in the sample index cannot cancel out
    weights = torch.linspace(-1.0, 2.0, shape[0], dtype=torch.float64)
    return x, normal(*shape), drawn, [normal(*shape) + 0.5, normal(*shape) - 0.5, weights]


def eager(x, r, weight, bias, *, eps=1e-5, scale=None, keep=None, p=2.0):
    """What a user writes without this operator; the energy in float32."""
    q = r
    if scale is not None:
        q = q * scale.to(r.dtype)
    if keep is not None:
        q = q * reference.along(keep, r, 0, r.dtype)
    y = x + q
    affine = [None if v is None else v.to(y.dtype) for v in (weight, bias)]
    normed = F.layer_norm(y, y.shape[-1:], *affine, eps)
    wide = reference.accumulation_dtype(x)
    return y, normed, q.to(wide).abs().pow(p).flatten(1).sum(1)


def run(function, x, r, options, cotangents, dtype, layout=torch.contiguous_format):
    """Named outputs and gradients of a function at a type and layout."""
    x, r = leaf(x, dtype, layout), leaf(r, dtype, layout)
    wide = reference.accumulation_dtype(x)
    options = {k: v.to(wide, copy=True) if isinstance(v, Tensor) else v for k, v in options.items()}
    inputs = {"grad_x": x, "grad_r": r}
    for name in VECTORS:
        if options.get(name) is not None:
            inputs[f"grad_{name}"] = options[name].requires_grad_()
    y, normed, energy, *_ = function(x, r, **options)
    outputs = {"y": y, "normed": normed, "energy": energy}
    cotangents = [c.to(o.dtype) for c, o in zip(cotangents, outputs.values(), strict=True)]
    grads = gradients([*outputs.values()], cotangents, [*inputs.values()])
    outputs = {name: output.detach() for name, output in outputs.items()}
    return outputs | dict(zip(inputs, grads, strict=True))


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


@pytest.mark.parametrize("options", OPTIONS)
def test_gradcheck(options) -> None:
    x, r, options, _ = draw((3, 4, 2, 5), OPTIONS[options])
    names = [name for name in VECTORS if options.get(name) is not None]
    vectors = [options.pop(name).requires_grad_() for name in names]

    def function(x, r, *vectors):
        given = {"weight": None, "bias": None, **options, **dict(zip(names, vectors, strict=True))}
        return residual_energy_layer_norm(x, r, **given)

    assert torch.autograd.gradcheck(function, (x.requires_grad_(), r.requires_grad_(), *vectors))


def arguments_of(options: dict, *flags: bool) -> tuple:
    """The operator's arguments in float32, all differentiable ones requiring gradient."""
    x, r, given, _ = draw((3, 4, 2, 5), options)
    given = {"scale": None, "keep": None, **given}
    for name in VECTORS:
        given[name] = None if given[name] is None else given[name].float().requires_grad_()
    keep = None if given["keep"] is None else given["keep"].float()
    vectors = (given["weight"], given["bias"], 1e-5, given["scale"], keep)
    return x.float().requires_grad_(), r.float().requires_grad_(), *vectors, 2.0, *flags


@READS_GRAD
@pytest.mark.parametrize("options", ["affine", "no-affine", "scale-keep"])
@pytest.mark.parametrize("with_energy", [True, False])
@pytest.mark.parametrize("recover", [True, False])
def test_opcheck(options, with_energy, recover) -> None:
    torch.library.opcheck(OP, arguments_of(OPTIONS[options], with_energy, recover))


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


def test_compiles_without_a_graph_break() -> None:
    drawn = draw((4, 6, 5, 12), OPTIONS["scale-keep"])
    compiled = torch.compile(residual_energy_layer_norm, fullgraph=True)
    ours = run(residual_energy_layer_norm, *drawn, torch.float32)
    theirs = run(compiled, *drawn, torch.float32)
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name])


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


def test_runs_are_bitwise_equal_whatever_the_threads() -> None:
    shape = (2, 3, 5) if INTERPRETED else (3, 500, 96)
    drawn = draw(shape, OPTIONS["scale-keep"])
    first = run(residual_energy_layer_norm, *drawn, torch.float32)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        second = run(residual_energy_layer_norm, *drawn, torch.float32)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("options", ["no-affine", "scale-keep"])
def test_nothing_is_read_before_it_is_written(options) -> None:
    drawn = draw((3, 5, 19), OPTIONS[options])
    plain = run(residual_energy_layer_norm, *drawn, torch.float32)
    torch.use_deterministic_algorithms(True)  # fills new memory with NaN
    try:
        poisoned = run(residual_energy_layer_norm, *drawn, torch.float32)
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(plain[name], poisoned[name]) for name in plain)


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
    with torch.autocast("cpu", torch.bfloat16):
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
