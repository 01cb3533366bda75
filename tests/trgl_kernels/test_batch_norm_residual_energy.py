"""batch_norm_residual_energy: every engine against float64, eager PyTorch and torch's BatchNorm."""

import pytest
import torch
import torch.nn.functional as F
from batch_norm import SHAPES
from batch_norm_residual_case import OPTIONS, batch_norm, draw, run
from oracle import (
    INTERPRETED,
    LAYOUTS,
    assert_three_way,
    leaf,
    one_thread,
    poisoned_memory,
    relative_error,
    rounded,
)

from trgl_kernels import batch_norm_residual_energy, reference


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients(shape, options, dtype, layout) -> None:
    if layout == "channels_last" and len(shape) != 4:
        pytest.skip("channels_last is a layout of four dimensions")
    z, x, given, (grad_y, grad_energy) = draw(shape, OPTIONS[options])
    cotangents = [rounded(grad_y, dtype), grad_energy]
    drawn = (rounded(z, dtype), rounded(x, dtype), given, cotangents)
    exact = run(
        reference.batch_norm_residual_energy, *drawn, torch.float64, torch.contiguous_format
    )
    engine = run(batch_norm_residual_energy, *drawn, dtype, LAYOUTS[layout])
    plain = run(batch_norm, *drawn, dtype, LAYOUTS[layout])
    assert_three_way(list(exact), *[list(found.values()) for found in (engine, plain, exact)])
    assert engine["y"].dtype == dtype
    if len(shape) == 4:
        assert engine["y"].is_contiguous(memory_format=LAYOUTS[layout])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("shape", "layout"),
    [((150, 8), None), ((6, 8, 25), None), *(((6, 8, 5, 5), layout) for layout in LAYOUTS)],
    ids=str,
)
def test_the_cost_of_a_normalized_residue_in_closed_form(shape, layout, dtype) -> None:
    """C = mean_c(γ²·var/(var + eps) + β²); its gradient acts on γ and β, and on z through eps."""
    eps = 3.0  # of the order of the variance: the gradient that reaches z goes with it
    format = LAYOUTS[layout or "contiguous"]
    z = leaf(torch.randn(shape) * 2 + 1, dtype, format)
    x = leaf(torch.randn(shape), dtype, format)
    weight, bias = ((torch.rand(8) + 0.5).to(dtype).requires_grad_() for _ in range(2))
    _, energy = batch_norm_residual_energy(z, x, weight, bias, None, None, training=True, eps=eps)
    cost = (energy / z[0].numel()).mean()
    found = torch.autograd.grad(cost, [z, weight, bias])

    axes = [d for d in range(z.dim()) if d != 1]
    z, weight, bias = (t.detach().double() for t in (z, weight, bias))
    var, mean = torch.var_mean(z, axes, correction=0, keepdim=True)
    shrink = (var / (var + eps)).flatten()
    exact = (weight**2 * shrink + bias**2).mean()
    # the derivative of var/(var + eps) is eps/(var + eps)², that of var is 2·(z − mean)/count
    slope = reference.along(weight**2, z, 1, z.dtype) * eps / (var + eps) ** 2 / 8
    expected = [slope * 2 * (z - mean) / (z.numel() / 8), 2 * weight * shrink / 8, 2 * bias / 8]
    for actual, known in zip((cost.detach(), *found), (exact, *expected), strict=True):
        # some roundings of each term; the gradient of z is a difference of terms of its own size
        assert relative_error(actual, known) <= 16 * torch.finfo(dtype).eps


def test_statistics_with_a_mean_far_from_zero() -> None:
    # the mean is kept in float32: half its last place, in units of the standard deviation
    rounding = 2.0**-16 / 0.1
    generator = torch.Generator().manual_seed(0)
    shape = (4, 3, 20, 20 if not INTERPRETED else 5)
    z = torch.randn(shape, generator=generator) * 0.1 + 500.0
    exact = run(*wide_arguments(z, torch.float64, reference.batch_norm_residual_energy))
    engine = run(*wide_arguments(z, torch.float32, batch_norm_residual_energy))
    plain = run(*wide_arguments(z, torch.float32, batch_norm))
    for name in ("y", "energy", "running_var"):
        bound = 2 * relative_error(plain[name], exact[name]) + rounding
        assert relative_error(engine[name], exact[name]) <= bound, name


def wide_arguments(z, dtype, function):
    c = z.shape[1]
    options = {
        "weight": torch.ones(c),
        "bias": torch.zeros(c),
        "running_mean": torch.zeros(c),
        "running_var": torch.ones(c),
        "training": True,
    }
    cotangents = [torch.ones_like(z), torch.ones(z.shape[0])]
    return function, z, torch.zeros_like(z), options, cotangents, dtype, torch.contiguous_format


@pytest.mark.parametrize("momentum", [0.0, 0.1, 1.0, 1.5, -0.5])
def test_running_statistics_follow_torch(momentum) -> None:
    ours, theirs = ([torch.zeros(5), torch.ones(5)] for _ in range(2))
    for step in range(3):
        z = torch.randn(4, 5, 6, 3) + step
        batch_norm_residual_energy(
            z, torch.zeros_like(z), None, None, *ours, training=True, momentum=momentum
        )
        F.batch_norm(z, *theirs, None, None, True, momentum)
    torch.testing.assert_close(ours, theirs)


def test_running_statistics_of_lower_precision() -> None:
    z = torch.randn(4, 5, 6, 3)
    mean, var = torch.zeros(5, dtype=torch.bfloat16), torch.ones(5, dtype=torch.bfloat16)
    batch_norm_residual_energy(z, z, None, None, mean, var, training=True)
    torch.testing.assert_close(mean, (0.1 * z.mean((0, 2, 3))).bfloat16())


def test_running_statistics_count_their_changes() -> None:
    z = torch.randn(4, 5, 6, 3, requires_grad=True)
    mean, var = torch.zeros(5), torch.ones(5)
    before = mean._version
    batch_norm_residual_energy(z, z, None, None, mean, var, training=True)
    assert mean._version > before
    assert var._version == mean._version
    version = mean._version
    batch_norm_residual_energy(z, z, None, None, mean, var, training=False)
    assert mean._version == version


def test_evaluation_keeps_the_statistics_of_its_forward() -> None:
    z = torch.randn(4, 5, 6, 3, requires_grad=True)
    mean, var = torch.zeros(5), torch.ones(5)
    y, _ = batch_norm_residual_energy(z, z.detach(), None, None, mean, var, training=False)
    var.fill_(100.0)
    (found,) = torch.autograd.grad(y.sum(), z)
    torch.testing.assert_close(found, (y > 0).float() / (1 + 1e-5) ** 0.5)


def test_mixed_types_are_promoted() -> None:
    z = torch.randn(3, 5, 4, 4).bfloat16().requires_grad_()
    x = torch.randn(3, 5, 4, 4, requires_grad=True)
    weight = torch.rand(5, dtype=torch.bfloat16, requires_grad=True)
    y, energy = batch_norm_residual_energy(z, x, weight, None, None, None, training=True)
    assert (y.dtype, energy.dtype) == (torch.float32, torch.float32)
    expected = torch.relu(x + F.batch_norm(z.float(), None, None, weight.float(), None, True))
    torch.testing.assert_close(y, expected)
    grads = torch.autograd.grad(y.sum() + energy.sum(), [z, x, weight])
    assert [g.dtype for g in grads] == [torch.bfloat16, torch.float32, torch.bfloat16]


def test_layouts_that_are_not_dense_and_expanded_gradients() -> None:
    z = torch.randn(3, 9, 6, 8)[:, ::2, :, 1::2].requires_grad_()
    x = torch.randn(8, 6, 5, 3).permute(3, 2, 1, 0)[..., ::2].requires_grad_()
    y, energy = batch_norm_residual_energy(z, x, None, None, None, None, training=True)
    expected = batch_norm(z, x, None, None, None, None, training=True)
    torch.testing.assert_close((y, energy), expected)
    found = torch.autograd.grad(y.sum() + energy.mean(), [z, x])
    known = torch.autograd.grad(expected[0].sum() + expected[1].mean(), [z, x])
    torch.testing.assert_close(found, known, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("shape", [(0, 4, 3, 3), (2, 0, 3, 3), (3, 4, 0, 2)], ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_empty_inputs(shape, training) -> None:
    z, x = torch.zeros(shape, requires_grad=True), torch.zeros(shape, requires_grad=True)
    c = shape[1]
    mean, var = torch.zeros(c), torch.ones(c)
    weight = torch.ones(c, requires_grad=True)
    y, energy = batch_norm_residual_energy(z, x, weight, None, mean, var, training=training)
    torch.testing.assert_close(energy, torch.zeros(shape[0]))
    (y.sum() + energy.sum()).backward()
    assert z.grad is not None
    assert z.grad.shape == shape
    assert torch.equal(weight.grad, torch.zeros(c))
    assert torch.equal(mean, torch.zeros(c))
    assert torch.equal(var, torch.ones(c))


def test_samples_do_not_mix_in_evaluation() -> None:
    z, x, order = torch.randn(4, 3, 5, 5), torch.randn(4, 3, 5, 5), torch.tensor([2, 0, 3, 1])
    statistics = torch.randn(3), torch.rand(3) + 0.5
    y, energy = batch_norm_residual_energy(z, x, None, None, *statistics, training=False)
    shuffled = batch_norm_residual_energy(
        z[order], x[order], None, None, *statistics, training=False
    )
    assert torch.equal(shuffled[0], y[order])
    assert torch.equal(shuffled[1], energy[order])


def test_nan_propagates() -> None:
    z, x = torch.randn(3, 4, 5, 5), torch.randn(3, 4, 5, 5)
    z[1, 2, 3, 3] = float("nan")
    x[0, 1, 0, 0] = float("nan")
    y, energy = batch_norm_residual_energy(z, x, None, None, None, None, training=True)
    expected, _ = batch_norm(z, x, None, None, None, None, training=True)
    assert torch.equal(y.isnan(), expected.isnan())
    assert energy.isnan().all()


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0])
@pytest.mark.parametrize("training", [True, False])
def test_scaling_the_affine_part_scales_the_energy_by_its_power(training, p) -> None:
    z, x, running = (
        torch.randn(3, 4, 5, 5),
        torch.randn(3, 4, 5, 5),
        (torch.zeros(4), torch.ones(4)),
    )
    weight, bias = torch.randn(4), torch.randn(4)
    z.requires_grad_()
    found = []
    for a in (1.0, -2.0):
        _, energy = batch_norm_residual_energy(
            z, x, a * weight, a * bias, *running, training=training, momentum=0.0, p=p
        )
        found.append((energy.detach(), *torch.autograd.grad(energy.sum(), z)))
    torch.testing.assert_close(found[1], tuple(2.0**p * t for t in found[0]))


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0])
@pytest.mark.parametrize("activation", ["relu", "none"])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_a_zero_residue_has_no_energy_and_no_slope(layout, activation, p) -> None:
    z, x = (leaf(torch.randn(3, 5, 4, 4), torch.float32, layout) for _ in range(2))
    weight, bias = (torch.zeros(5, requires_grad=True) for _ in range(2))
    options = {"training": True, "activation": activation, "p": p}
    y, energy = batch_norm_residual_energy(z, x, weight, bias, None, None, **options)
    assert torch.equal(y, x.relu() if activation == "relu" else x)
    assert torch.equal(energy, torch.zeros(3))
    for gradient in torch.autograd.grad(energy.sum(), [z, weight, bias]):
        assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_runs_are_bitwise_equal_whatever_the_threads(layout, dtype) -> None:
    shape = (2, 3, 5, 5) if INTERPRETED else (5, 16, 60, 60)
    drawn = draw(shape, OPTIONS["keep"])
    first = run(batch_norm_residual_energy, *drawn, dtype, LAYOUTS[layout])
    with one_thread():
        second = run(batch_norm_residual_energy, *drawn, dtype, LAYOUTS[layout])
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_nothing_is_read_before_it_is_written(layout, dtype) -> None:
    drawn = draw((3, 5, 7, 3), OPTIONS["keep"])
    plain = run(batch_norm_residual_energy, *drawn, dtype, LAYOUTS[layout])
    with poisoned_memory():
        poisoned = run(batch_norm_residual_energy, *drawn, dtype, LAYOUTS[layout])
    assert all(torch.equal(plain[name], poisoned[name]) for name in plain)
