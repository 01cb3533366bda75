"""batch_norm_relu: every engine against float64, and torch's BatchNorm with its ReLU."""

import pytest
import torch
import torch.nn.functional as F
from batch_norm import SHAPES
from batch_norm_relu_case import OPTIONS, TYPES, again, backward, draw, eager, run
from oracle import (
    INTERPRETED,
    LAYOUTS,
    READS_GRAD,
    assert_three_way,
    each_end,
    each_path,
    leaf,
    one_thread,
    poisoned_memory,
    relative_error,
    rounded,
)
from torch import Tensor

from trgl_kernels import batch_norm_relu, reference


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients(shape, options, dtype, layout) -> None:
    if layout == "channels_last" and len(shape) != 4:
        pytest.skip("channels_last is a layout of four dimensions")
    z, given, (grad_y,) = draw(shape, OPTIONS[options], dtype)
    drawn = (z, given, [rounded(grad_y, dtype)])
    exact = run(reference.batch_norm_relu, *drawn, torch.float64, torch.contiguous_format)
    engine = run(batch_norm_relu, *drawn, dtype, LAYOUTS[layout])
    plain = run(eager, *drawn, dtype, LAYOUTS[layout])
    assert_three_way(list(exact), *[list(found.values()) for found in (engine, plain, exact)])
    assert engine["y"].dtype == engine["grad_z"].dtype == dtype
    if len(shape) == 4:
        assert engine["y"].is_contiguous(memory_format=LAYOUTS[layout])
        assert engine["grad_z"].is_contiguous(memory_format=LAYOUTS[layout])


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("options", OPTIONS)
def test_gradcheck(options, layout) -> None:
    z, given, _ = draw((3, 4, 3, 2), OPTIONS[options])
    names = [name for name in ("weight", "bias") if given[name] is not None]
    parameters = [given.pop(name).requires_grad_() for name in names]

    def function(z, *parameters):
        copies = {k: v.clone() if isinstance(v, Tensor) else v for k, v in given.items()}
        return batch_norm_relu(
            z,
            **{"weight": None, "bias": None, **copies, **dict(zip(names, parameters, strict=True))},
        )

    assert torch.autograd.gradcheck(function, (leaf(z, torch.float64, layout), *parameters))


@READS_GRAD
@each_end
@pytest.mark.parametrize("options", OPTIONS)
def test_opcheck(options, dtype, layout) -> None:
    z, given, _ = draw((3, 4, 5, 2), OPTIONS[options])
    single = {k: v.float() if isinstance(v, Tensor) else v for k, v in given.items()}
    for name in ("weight", "bias"):
        if single[name] is not None:
            single[name].requires_grad_()
    args = (leaf(z, dtype, layout), *single.values(), 0.1, 1e-5)
    torch.library.opcheck(torch.ops.trgl.batch_norm_relu.default, args)


@READS_GRAD
@pytest.mark.parametrize("mask", [[True] * 3, [True, False, False], [False, True, True]])
@pytest.mark.parametrize("training", [True, False])
def test_opcheck_backward_and_apply(mask, training) -> None:
    z, given, (grad_y,) = draw((3, 4, 5, 2), OPTIONS["training"])
    _, mean, rstd = reference.batch_norm_relu(z, **given)
    tensors = [t.float() for t in (z, given["weight"], given["bias"], mean, rstd)]
    torch.library.opcheck(backward, (grad_y.float(), *tensors, training, mask))
    torch.library.opcheck(again, tuple(tensors))


@each_path
def test_compiles_without_a_graph_break(dtype, layout) -> None:
    drawn = draw((4, 6, 5, 5), OPTIONS["training"], dtype)
    compiled = torch.compile(batch_norm_relu, fullgraph=True)
    ours = run(batch_norm_relu, *drawn, dtype, layout)
    theirs = run(compiled, *drawn, dtype, layout)
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name])
        assert ours[name].stride() == theirs[name].stride()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("options", OPTIONS)
def test_apply_gives_the_output_again_bit_by_bit(options, dtype, layout) -> None:
    shape = (3, 6, 5, 7) if INTERPRETED else (4, 37, 33, 31)
    z, given, _ = draw(shape, OPTIONS[options])
    z = z.to(dtype).contiguous(memory_format=LAYOUTS[layout])
    given = {k: v.float() if isinstance(v, Tensor) else v for k, v in given.items()}
    y, mean, rstd = torch.ops.trgl.batch_norm_relu.default(z, *given.values(), 0.1, 1e-5)
    found = again(z, given["weight"], given["bias"], mean, rstd)
    assert torch.equal(found, y)
    assert found.stride() == y.stride()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("training", [True, False])
def test_the_mask_is_that_of_the_output_to_the_last_bit(training, layout) -> None:
    """β takes back γ·ẑ of whole channels, so that only rounding decides on which side they fall."""
    shape = (3, 21, 5, 7) if INTERPRETED else (5, 37, 9, 19)
    values, weight = torch.randn(shape[:2]), torch.rand(shape[1]) + 0.5
    z = values[:, :, None, None].expand(shape).contiguous(memory_format=LAYOUTS[layout])
    running = torch.randn(shape[1]), torch.rand(shape[1]) + 0.5
    run = torch.ops.trgl.batch_norm_relu.default
    _, mean, rstd = run(z, weight, None, *running, training, 0.0, 1e-5)
    bias = -(z[0, :, 0, 0] - mean) * (weight * rstd)
    # without a fused multiply-add that is exactly 0: one unit in the last place up, none, or down
    bias = torch.nextafter(bias, bias + torch.arange(shape[1]) % 3 - 1)
    y, mean, rstd = run(z, weight, bias, *running, training, 0.0, 1e-5)
    grad_z, _, grad_bias = backward(
        torch.ones_like(z), z, weight, bias, mean, rstd, False, [True, False, True]
    )
    assert torch.equal(grad_z != 0, y > 0)
    assert torch.equal(grad_bias, (y > 0).sum((0, 2, 3)).float())
    assert 0 < int((y[0] > 0).sum()) < y[0].numel()  # or the case is none


@pytest.mark.parametrize("momentum", [0.0, 0.1, 1.0, 1.5, -0.5])
def test_running_statistics_follow_torch(momentum) -> None:
    ours, theirs = ([torch.zeros(5), torch.ones(5)] for _ in range(2))
    for step in range(3):
        z = torch.randn(4, 5, 6, 3) + step
        batch_norm_relu(z, None, None, *ours, training=True, momentum=momentum)
        F.batch_norm(z, *theirs, None, None, True, momentum)
    torch.testing.assert_close(ours, theirs)


def test_running_statistics_of_lower_precision() -> None:
    z = torch.randn(4, 5, 6, 3)
    mean, var = torch.zeros(5, dtype=torch.bfloat16), torch.ones(5, dtype=torch.bfloat16)
    batch_norm_relu(z, None, None, mean, var, training=True)
    torch.testing.assert_close(mean, (0.1 * z.mean((0, 2, 3))).bfloat16())


@pytest.mark.parametrize("requires_grad", [True, False])
def test_running_statistics_count_their_changes(requires_grad) -> None:
    z = torch.randn(4, 5, 6, 3, requires_grad=requires_grad)
    mean, var = torch.zeros(5), torch.ones(5)
    before = mean._version
    batch_norm_relu(z, None, None, mean, var, training=True)
    assert mean._version > before
    assert var._version == mean._version
    version = mean._version
    batch_norm_relu(z, None, None, mean, var, training=False)
    assert mean._version == version


def test_evaluation_keeps_the_statistics_of_its_forward() -> None:
    z = torch.randn(4, 5, 6, 3, requires_grad=True)
    mean, var = torch.zeros(5), torch.ones(5)
    y = batch_norm_relu(z, None, None, mean, var, training=False)
    mean.fill_(7.0)
    var.fill_(100.0)
    (found,) = torch.autograd.grad(y.sum(), z)
    torch.testing.assert_close(found, (y > 0).float() / (1 + 1e-5) ** 0.5)


def test_statistics_with_a_mean_far_from_zero() -> None:
    # the mean is kept in float32: half its last place, in units of the standard deviation
    rounding = 2.0**-16 / 0.1
    z = (torch.randn(4, 3, 20, 20 if not INTERPRETED else 5) * 0.1 + 500.0).double()
    ones, zeros = torch.ones(3), torch.zeros(3)
    given = {"weight": ones, "bias": zeros, "running_mean": zeros, "running_var": ones}
    drawn = (z, {**given, "training": True}, [torch.ones_like(z)])
    exact = run(reference.batch_norm_relu, *drawn, torch.float64, torch.contiguous_format)
    engine = run(batch_norm_relu, *drawn, torch.float32, torch.contiguous_format)
    plain = run(eager, *drawn, torch.float32, torch.contiguous_format)
    for name in ("y", "running_var"):
        bound = 2 * relative_error(plain[name], exact[name]) + rounding
        assert relative_error(engine[name], exact[name]) <= bound, name


def test_parameters_of_lower_precision_are_cast() -> None:
    z = torch.randn(3, 5, 4, 4).bfloat16().requires_grad_()
    weight = torch.rand(5, dtype=torch.bfloat16, requires_grad=True)
    bias = torch.randn(5, dtype=torch.float16, requires_grad=True)
    y = batch_norm_relu(z, weight, bias, None, None, training=True)
    expected = eager(z.float(), weight.float(), bias.float(), None, None, training=True)
    torch.testing.assert_close(y, expected.bfloat16(), rtol=1e-2, atol=1e-2)
    grads = torch.autograd.grad(y.sum(), [z, weight, bias])
    assert [g.dtype for g in grads] == [torch.bfloat16, torch.bfloat16, torch.float16]


def test_layouts_that_are_not_dense_and_expanded_gradients() -> None:
    z = torch.randn(3, 9, 6, 8)[:, ::2, :, 1::2].requires_grad_()
    weight, bias = torch.rand(10)[::2].requires_grad_(), torch.randn(1).expand(5)
    y = batch_norm_relu(z, weight, bias, None, None, training=True)
    expected = eager(z, weight, bias, None, None, training=True)
    torch.testing.assert_close(y, expected)
    for cotangent in (torch.ones(1).expand_as(y), torch.randn(4, 6, 5, 3).permute(3, 2, 1, 0)):
        found = torch.autograd.grad(y, [z, weight], cotangent, retain_graph=True)
        known = torch.autograd.grad(expected, [z, weight], cotangent, retain_graph=True)
        torch.testing.assert_close(found, known, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("shape", [(0, 4, 3, 3), (2, 0, 3, 3), (3, 4, 0, 2)], ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_empty_inputs(shape, training) -> None:
    z = torch.zeros(shape, requires_grad=True)
    c = shape[1]
    mean, var = torch.zeros(c), torch.ones(c)
    weight = torch.ones(c, requires_grad=True)
    y = batch_norm_relu(z, weight, None, mean, var, training=training)
    assert y.shape == shape
    y.sum().backward()
    assert z.grad is not None
    assert z.grad.shape == shape
    assert torch.equal(weight.grad, torch.zeros(c))
    assert torch.equal(mean, torch.zeros(c))
    assert torch.equal(var, torch.ones(c))
    assert again(z, weight, None, mean, var).shape == shape


def test_samples_do_not_mix_in_evaluation() -> None:
    z, order = torch.randn(4, 3, 5, 5), torch.tensor([2, 0, 3, 1])
    statistics = torch.randn(3), torch.rand(3) + 0.5
    y = batch_norm_relu(z, None, None, *statistics, training=False)
    assert torch.equal(batch_norm_relu(z[order], None, None, *statistics, training=False), y[order])


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # the interpreter's
@pytest.mark.parametrize("layout", LAYOUTS)
def test_nan_and_infinity_propagate_as_in_torch(layout) -> None:
    z = torch.randn(3, 8, 5, 5).contiguous(memory_format=LAYOUTS[layout])
    z[1, 2, 3, 3], z[0, 1, 0, 0], z[2, 4, 1, 1] = float("nan"), float("inf"), float("-inf")
    statistics = torch.zeros(8), torch.ones(8)
    for given in ({"training": True}, {"training": False}):
        inputs = [z.clone().requires_grad_() for _ in range(2)]
        found, known = (
            function(leaf, None, None, *(s.clone() for s in statistics), **given)
            for function, leaf in zip((batch_norm_relu, eager), inputs, strict=True)
        )
        torch.testing.assert_close(found, known, equal_nan=True)
        outputs = zip((found, known), inputs, strict=True)
        grads = [torch.autograd.grad(y.sum(), leaf)[0] for y, leaf in outputs]
        torch.testing.assert_close(*grads, equal_nan=True, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_runs_are_bitwise_equal_whatever_the_threads(layout, dtype) -> None:
    shape = (2, 3, 5, 5) if INTERPRETED else (5, 16, 60, 60)
    drawn = draw(shape, OPTIONS["training"])
    first = run(batch_norm_relu, *drawn, dtype, LAYOUTS[layout])
    with one_thread():
        second = run(batch_norm_relu, *drawn, dtype, LAYOUTS[layout])
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("options", OPTIONS)
def test_nothing_is_read_before_it_is_written(options, layout, dtype) -> None:
    drawn = draw((3, 5, 7, 3), OPTIONS[options])
    plain = run(batch_norm_relu, *drawn, dtype, LAYOUTS[layout])
    with poisoned_memory():
        poisoned = run(batch_norm_relu, *drawn, dtype, LAYOUTS[layout])
    assert all(torch.equal(plain[name], poisoned[name]) for name in plain)
