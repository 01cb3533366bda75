"""The Triton engine beyond the operators' own tests: split work, offsets, numbers that wear thin.

A small input needs one program per sample or channel. Here the launch constants are made small, so
that the interpreter goes through every way of splitting and combining.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from oracle import INTERPRETED, LAYOUTS, relative_error
from torch import Tensor

from trgl_kernels import launch, reference
from trgl_kernels.gradients import (
    batch_norm_relu_backward,
    batch_norm_residual_energy_backward,
    displacement_energy_backward,
    residual_energy_backward,
    residual_energy_layer_norm_backward,
)

if not INTERPRETED:
    pytest.skip("only for the Triton engine: TRGL_TEST_ENGINE=triton", allow_module_level=True)

import triton
import triton.language as tl

from trgl_kernels import cuda
from trgl_kernels.cuda import runtime, statistics
from trgl_kernels.cuda.tiles import channel_rows, flat_channel

# one rounding in float32, and the few by which sums in another order differ
BOUND = 2e-6
SPLITS = {
    "one-tile-each": {
        "TILE_BYTES": 64,
        "LONE_ELEMENTS": 16,
        "CHUNK_TILES": 1,
        "SHARE_TILES": 1,
        "COLUMNS": 4,
    },
    "two-tiles-each": {
        "TILE_BYTES": 32,
        "LONE_ELEMENTS": 8,
        "CHUNK_TILES": 2,
        "SHARE_TILES": 2,
        "COLUMNS": 2,
        "COMBINE_ELEMENTS": 4,
    },
}
SHAPES = [(2, 8, 4, 4), (3, 5, 3, 5)]

each_layout = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def forget_settings() -> None:
    for function in (launch.view, launch.flat, launch.by_channel, launch.by_row, launch.combine):
        function.cache_clear()


@pytest.fixture(params=SPLITS)
def split(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Launch constants under which small inputs are split."""
    for name, value in SPLITS[request.param].items():
        monkeypatch.setattr(launch, name, value)
    forget_settings()
    yield
    forget_settings()


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the kernels that ran."""
    names: list[str] = []
    run = runtime.run

    def record(kernel: Any, *args: Any, **constants: Any) -> None:
        names.append(kernel.__name__)
        run(kernel, *args, **constants)

    for module in (runtime, statistics):
        monkeypatch.setattr(module, "run", record)
    return names


def normal(shape: tuple[int, ...], layout: torch.memory_format = torch.contiguous_format) -> Tensor:
    tensor = torch.randn(shape)
    return tensor.contiguous(memory_format=layout) if tensor.dim() == 4 else tensor


def wide(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """The same arguments in float64."""
    return tuple(a.double() if isinstance(a, Tensor) else a for a in arguments)


def assert_close(found: tuple[Tensor, ...], exact: tuple[Tensor, ...]) -> None:
    for i, (a, b) in enumerate(zip(found, exact, strict=True)):
        assert a.shape == b.shape, i
        assert relative_error(a, b) <= BOUND, i


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@each_layout
@each_shape
def test_residual_energy_in_parts(
    shape: tuple[int, ...], layout: torch.memory_format, split: None, kernels: list[str]
) -> None:
    x, r, grad_y = (normal(shape, layout) for _ in range(3))
    scale, keep, grad_energy = (
        torch.rand(shape[1]) + 0.5,
        torch.rand(shape[0]),
        torch.rand(shape[0]),
    )
    y, energy = torch.ops.trgl.residual_energy.default(x, r, "relu", scale, keep, 2.0, True, False)
    options = {"activation": "relu", "scale": scale.double(), "keep": keep.double()}
    assert_close((y, energy), reference.residual_energy(x.double(), r.double(), **options))
    arguments = (grad_y, grad_energy, y, r, None, scale, keep, "relu", 2.0)
    for with_scale in (True, False):
        mask = [True, True, with_scale]
        found = torch.ops.trgl.residual_energy_backward.default(*arguments, torch.float32, mask)
        assert_close(found, residual_energy_backward(*wide(arguments), torch.float64, mask))
    assert kernels.count("column_sums_kernel") == 2


@each_layout
@each_shape
@pytest.mark.usefixtures("split")
def test_residual_energy_recovered_in_parts(
    shape: tuple[int, ...], layout: torch.memory_format
) -> None:
    x, y, grad_y = (normal(shape, layout) for _ in range(3))
    scale, keep, grad_energy = (torch.rand(size) for size in (shape[1], shape[0], shape[0]))
    arguments = (grad_y, grad_energy, None, y, x, scale, keep, "none", 2.0)
    mask = [True, True, False]
    found = torch.ops.trgl.residual_energy_backward.default(*arguments, torch.float32, mask)
    assert_close(found, residual_energy_backward(*wide(arguments), torch.float64, mask))


@each_layout
@each_shape
def test_displacement_energy_in_parts(
    shape: tuple[int, ...], layout: torch.memory_format, split: None, kernels: list[str]
) -> None:
    x, y, grad_energy = normal(shape, layout), normal(shape, layout), torch.rand(shape[0])
    energy = torch.ops.trgl.displacement_energy.default(x, y, 2.0)
    assert_close((energy,), (reference.displacement_energy(x.double(), y.double()),))
    for mask in ([True, True], [True, False], [False, True]):
        found = torch.ops.trgl.displacement_energy_backward.default(grad_energy, x, y, 2.0, mask)
        exact = displacement_energy_backward(*wide((grad_energy, x, y, 2.0)), mask)
        assert_close(found, exact)
    assert kernels == ["forward_kernel", "column_sums_kernel", *["backward_kernel"] * 3]


@each_layout
@each_shape
@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_residual_energy_in_parts(
    shape: tuple[int, ...],
    layout: torch.memory_format,
    training: bool,
    split: None,
    kernels: list[str],
) -> None:
    z, x, grad_y = (normal(shape, layout) for _ in range(3))
    weight, bias = torch.rand(shape[1]) + 0.5, torch.randn(shape[1])
    keep, grad_energy = torch.rand(shape[0]), torch.rand(shape[0])
    running = torch.randn(shape[1]), torch.rand(shape[1]) + 0.5
    moved = tuple(t.double() for t in running)
    outputs = torch.ops.trgl.batch_norm_residual_energy.default(
        z, x, weight, bias, *running, training, 0.1, 1e-5, "relu", keep, 2.0, True
    )
    exact = reference.batch_norm_residual_energy(
        *wide((z, x, weight, bias)), *moved, training=training, keep=keep.double()
    )
    assert_close((*outputs, *running), (*exact, *moved))
    y, _, mean, rstd = outputs
    arguments = (grad_y, grad_energy, z, y, weight, bias, mean, rstd, training, "relu", keep, 2.0)
    for mask in ([True] * 4, [True, False, True, True], [False, True, False, False]):
        found = torch.ops.trgl.batch_norm_residual_energy_backward.default(
            *arguments, torch.float32, mask
        )
        exact = batch_norm_residual_energy_backward(*wide(arguments), torch.float64, mask)
        assert_close(found, exact)
    assert kernels.count("merge_kernel") == training
    assert kernels.count("column_sums_kernel") == 3


@pytest.mark.parametrize("recovered", [False, True])
@pytest.mark.parametrize("shape", [(2, 9, 4), (3, 5, 3, 5), (7, 6)], ids=str)
@pytest.mark.usefixtures("split")
def test_residual_energy_layer_norm_in_parts(
    shape: tuple[int, ...], recovered: bool, kernels: list[str]
) -> None:
    x, r, *grads = (normal(shape) for _ in range(4))
    weight, bias, scale = (torch.rand(shape[-1]) + 0.5 for _ in range(3))
    keep, grad_energy = torch.rand(shape[0]), torch.rand(shape[0])
    outputs = torch.ops.trgl.residual_energy_layer_norm.default(
        x, r, weight, bias, 1e-5, scale, keep, 2.0, True, recovered
    )
    exact = reference.residual_energy_layer_norm(
        *wide((x, r, weight, bias)), scale=scale.double(), keep=keep.double()
    )
    assert_close(outputs, exact)
    y, _, _, mean, rstd = outputs
    residue = (None, x) if recovered else (r, None)
    arguments = (*grads, grad_energy, y, *residue, weight, bias, mean, rstd, scale, keep, 2.0)
    for mask in ([True] * 4 + [not recovered], [False, True, False, True, False]):
        found = torch.ops.trgl.residual_energy_layer_norm_backward.default(
            *arguments, torch.float32, torch.float32, mask
        )
        exact = residual_energy_layer_norm_backward(
            *wide(arguments), torch.float64, torch.float64, mask
        )
        assert_close(found, exact)
    # energies of samples of several rows; weight and bias, and scale; then bias alone
    assert kernels.count("column_sums_kernel") == (len(shape) > 2) + 2 + (not recovered)


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Programs that hold four columns of a row."""
    monkeypatch.setattr(launch, "WIDEST", 4)
    forget_settings()
    yield
    forget_settings()


@pytest.mark.parametrize("factors", [True, False])
@pytest.mark.parametrize("recovered", [False, True])
@pytest.mark.parametrize("shape", [(2, 3, 9), (3, 5, 2, 8), (7, 6)], ids=str)
@pytest.mark.usefixtures("narrow")
def test_rows_too_wide_for_a_program_are_walked_in_tiles(
    shape: tuple[int, ...], recovered: bool, factors: bool, kernels: list[str]
) -> None:
    x, r, *grads = (normal(shape) for _ in range(4))
    x += 50.0  # a mean that has to be taken twice
    weight, bias, scale = ((torch.rand(shape[-1]) + 0.5) if factors else None for _ in range(3))
    keep, grad_energy = torch.rand(shape[0]) if factors else None, torch.rand(shape[0])
    outputs = torch.ops.trgl.residual_energy_layer_norm.default(
        x, r, weight, bias, 1e-5, scale, keep, 2.0, True, recovered
    )
    options = dict(zip(("scale", "keep"), wide((scale, keep)), strict=True))
    exact = reference.residual_energy_layer_norm(*wide((x, r, weight, bias)), **options)
    for a, b, bound in zip(outputs, exact, (BOUND, 2e-5, BOUND, BOUND, 2e-5), strict=True):
        assert relative_error(a, b) <= bound
    y, _, _, mean, rstd = outputs
    residue = (None, x) if recovered else (r, None)
    arguments = (*grads, grad_energy, y, *residue, weight, bias, mean, rstd, scale, keep, 2.0)
    for mask in ([True] * 4 + [not recovered], [False, True, False, True, False]):
        found = torch.ops.trgl.residual_energy_layer_norm_backward.default(
            *arguments, torch.float32, torch.float32, mask
        )
        exact = residual_energy_layer_norm_backward(
            *wide(arguments), torch.float64, torch.float64, mask
        )
        assert_close(found, exact)
    assert kernels[:2] == ["statistics_kernel", "forward_kernel"]
    assert kernels.count("means_kernel") == kernels.count("backward_kernel") == 2


@each_layout
@each_shape
@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_relu_in_parts(
    shape: tuple[int, ...],
    layout: torch.memory_format,
    training: bool,
    split: None,
    kernels: list[str],
) -> None:
    z, grad_y = (normal(shape, layout) for _ in range(2))
    weight, bias = torch.rand(shape[1]) + 0.5, torch.randn(shape[1])
    running = torch.randn(shape[1]), torch.rand(shape[1]) + 0.5
    moved = tuple(t.double() for t in running)
    outputs = torch.ops.trgl.batch_norm_relu.default(z, weight, bias, *running, training, 0.1, 1e-5)
    exact = reference.batch_norm_relu(*wide((z, weight, bias)), *moved, training=training)
    assert_close((*outputs, *running), (*exact, *moved))
    y, mean, rstd = outputs
    assert torch.equal(torch.ops.trgl.batch_norm_relu_apply(z, weight, bias, mean, rstd), y)
    arguments = (grad_y, z, weight, bias, mean, rstd, training)
    for mask in ([True] * 3, [True, False, False], [False, True, False]):
        found = torch.ops.trgl.batch_norm_relu_backward.default(*arguments, mask)
        assert_close(found, batch_norm_relu_backward(*wide(arguments), mask))
    assert kernels.count("merge_kernel") == training
    assert kernels.count("column_sums_kernel") == 2 + training


@each_layout
def test_small_inputs_need_few_kernels(layout: torch.memory_format, kernels: list[str]) -> None:
    z, x, grad_y = (normal((2, 8, 4, 4), layout) for _ in range(3))
    vector = torch.rand(8)
    y, energy, mean, rstd = torch.ops.trgl.batch_norm_residual_energy.default(
        z,
        x,
        vector,
        vector,
        vector.clone(),
        vector.clone(),
        True,
        0.1,
        1e-5,
        "relu",
        None,
        2.0,
        True,
    )
    torch.ops.trgl.batch_norm_residual_energy_backward.default(
        grad_y,
        energy,
        z,
        y,
        vector,
        vector,
        mean,
        rstd,
        True,
        "relu",
        None,
        2.0,
        x.dtype,
        [True] * 4,
    )
    torch.ops.trgl.residual_energy.default(x, z, "none", None, None, 2.0, True, False)
    torch.ops.trgl.batch_norm_relu.default(z, vector, vector, None, None, True, 0.1, 1e-5)
    torch.ops.trgl.batch_norm_relu_backward.default(
        grad_y, z, vector, vector, mean, rstd, True, [True] * 3
    )
    assert kernels == [
        "batch_kernel",
        "forward_kernel",
        "backward_sums_kernel",
        "backward_kernel",
        "forward_kernel",
        "batch_kernel",
        "rectify_kernel",
        "backward_sums_kernel",
        "backward_kernel",
    ]


@pytest.mark.parametrize("mean", [0.0, 1e3, -1e4])
@each_layout
def test_statistics_of_values_far_from_zero(mean: float, layout: torch.memory_format) -> None:
    z = (normal((8, 3, 12, 12)) + mean).contiguous(memory_format=layout)
    _, _, found, rstd = torch.ops.trgl.batch_norm_residual_energy.default(
        z, z, None, None, None, None, True, 0.1, 1e-5, "none", None, 2.0, False
    )
    exact = z.double().mean((0, 2, 3))
    var = z.double().var((0, 2, 3), correction=0)
    # the mean to one unit in its last place, and that unit is what deviations are known to
    assert ((found.double() - exact).abs() <= 2.0**-23 * exact.abs() + 1e-7).all()
    torch.testing.assert_close(
        rstd.double(), (var + 1e-5).rsqrt(), rtol=1e-6 + 4e-9 * abs(mean), atol=0.0
    )


@each_layout
@pytest.mark.usefixtures("split")
def test_split_runs_are_bitwise_equal(layout: torch.memory_format) -> None:
    z, x, grad_y = (normal((3, 6, 5, 5), layout) for _ in range(3))
    vector, keep = torch.rand(6), torch.rand(3)

    def run() -> tuple[Tensor, ...]:
        y, energy, mean, rstd = torch.ops.trgl.batch_norm_residual_energy.default(
            z, x, vector, vector, None, None, True, 0.1, 1e-5, "relu", keep, 2.0, True
        )
        gradients = torch.ops.trgl.batch_norm_residual_energy_backward.default(
            grad_y, energy, z, y, vector, vector, mean, rstd, True, "relu", keep, 2.0, x.dtype,
            [True] * 4,
        )  # fmt: skip
        return (y, energy, mean, rstd, *gradients)

    assert all(torch.equal(a, b) for a, b in zip(run(), run(), strict=True))


def test_vectors_may_be_expanded_or_strided() -> None:
    x, r = normal((4, 6, 3, 3)), normal((4, 6, 3, 3))
    keep, scale = torch.rand(8)[::2], torch.rand(12)[::2]
    y, energy = torch.ops.trgl.residual_energy.default(x, r, "none", scale, keep, 2.0, True, False)
    expected = reference.residual_energy(x, r, scale=scale, keep=keep)
    assert_close((y, energy), tuple(t.double() for t in expected))
    one = torch.ones(1).expand(4)
    (_, found, _) = torch.ops.trgl.residual_energy_backward.default(
        None, one, None, r, None, scale, keep, "none", 2.0, x.dtype, [False, True, False]
    )
    q = reference.residue(r, scale, keep, torch.float32)
    expected = 2.0 * q * reference.residue(torch.ones_like(r), scale, keep, torch.float32)
    torch.testing.assert_close(found, expected)


def test_strided_running_statistics_move() -> None:
    z = normal((4, 6, 3, 3))
    running = torch.zeros(6, 2)
    expected = torch.zeros(6), torch.zeros(6)
    for mean, var in (running.unbind(1), expected):
        torch.ops.trgl.batch_norm_residual_energy.default(
            z, z, None, None, mean, var, True, 0.25, 1e-5, "none", None, 2.0, False
        )
    assert torch.equal(running, torch.stack(expected, 1))
    torch.testing.assert_close(running[:, 0], 0.25 * z.mean((0, 2, 3)))


def test_a_relu_lets_the_gradient_of_nan_pass_as_pytorch_does() -> None:
    x = torch.tensor([[float("nan"), 1.0, -1.0, 0.0]])
    y = torch.relu(x.requires_grad_())
    (expected,) = torch.autograd.grad(y.sum(), x)
    found, _, _ = torch.ops.trgl.residual_energy_backward.default(
        torch.ones(1, 4), None, y.detach(), torch.zeros(1, 4), None, None, None, "relu", 2.0,
        x.dtype,
        [True, False, False],
    )  # fmt: skip
    assert torch.equal(found, expected)


def test_float64_and_empty_inputs_are_left_to_the_reference(kernels: list[str]) -> None:
    for r in (normal((2, 3, 4, 4)).double(), normal((0, 3, 4, 4)), normal((2, 3, 0, 4))):
        x = torch.randn_like(r)
        y, energy = torch.ops.trgl.residual_energy.default(
            x, r, "relu", None, None, 2.0, True, False
        )
        expected = reference.residual_energy(x, r, activation="relu")
        assert torch.equal(y, expected[0])
        assert torch.equal(energy, expected[1])
    assert kernels == []


def test_every_operator_is_registered() -> None:
    for name in cuda.OPERATORS:
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"trgl::{name}", "CPU")


@triton.jit
def flat_channel_kernel(
    channel_ptr,
    first,
    plane,
    width,
    VECTOR: tl.constexpr,
    LAST: tl.constexpr,
    WRAP: tl.constexpr,
    ROWS: tl.constexpr,
):
    row = tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, VECTOR)[None, :]
    channel = flat_channel(first.to(tl.int64), row, column, plane, width, VECTOR, LAST, WRAP)
    tl.store(channel_ptr + row * VECTOR + column, channel)


@pytest.mark.parametrize("first", [0, 12, 2**33 + 24])
@pytest.mark.parametrize("v", [launch.View(1, 2**32, 12, 1), launch.View(1, 2**20, 3, 2**13)])
def test_channels_of_flat_elements_beyond_32_bits(first: int, v: launch.View) -> None:
    rows = 16
    found = torch.empty(rows * v.vector, dtype=torch.int64)
    flat_channel_kernel[(1,)](found, first, v.plane, v.width, v.vector, v.last, True, rows)
    elements = first * v.vector + torch.arange(rows * v.vector)
    assert torch.equal(found, elements // v.inner % v.channels)


@triton.jit
def channel_rows_kernel(
    offset_ptr,
    sample_ptr,
    first,
    groups,
    plane,
    outer,
    channel,
    channels,
    COLUMNS: tl.constexpr,
    LAST: tl.constexpr,
    ROWS: tl.constexpr,
):
    row = tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, COLUMNS)[None, :]
    offset, _, sample = channel_rows(
        first.to(tl.int64),
        row,
        groups,
        plane,
        outer,
        channel + (column if LAST else 0),
        channels,
        COLUMNS,
        LAST,
    )
    tl.store(offset_ptr + row * COLUMNS + column, offset)
    tl.store(sample_ptr + row, sample)


@pytest.mark.parametrize(
    "v",
    [launch.View(2**20, 3 * 2**11, 8, 1), launch.View(2**18, 3, 7, 2**13)],
    ids=["last", "planes"],
)
@pytest.mark.parametrize("first", [0, 2**30 + 5])
def test_offsets_of_channel_rows_beyond_32_bits(v: launch.View, first: int) -> None:
    rows, channel = 16, 0 if v.last else 5
    offset = torch.empty(rows, v.vector, dtype=torch.int64)
    sample = torch.empty(rows, dtype=torch.int64)
    groups = v.samples * v.outer * v.plane
    channel_rows_kernel[(1,)](
        offset, sample, first, groups, v.plane, v.outer, channel, v.channels, v.vector, v.last, rows
    )
    group = first + torch.arange(rows)
    line = group // v.plane
    assert torch.equal(sample, line // v.outer)
    if v.last:
        expected = line[:, None] * v.channels + torch.arange(v.vector)
    else:
        inside = group % v.plane * v.vector
        start = (line * v.channels + channel) * v.inner + inside
        expected = start[:, None] + torch.arange(v.vector)
    assert int(expected.max()) > 2**31 or first == 0
    assert torch.equal(offset, expected)
