"""The Triton engine where a small input is split among programs, and combined again.

A small input needs one program per sample or channel. Here the launch constants are made small, so
that small inputs go through every way of splitting and combining.
"""

from collections.abc import Iterator

import pytest
import torch
from interpreted import BOUND, assert_close, each_layout, forget_settings, normal, recorded, wide
from oracle import TRITON, relative_error
from torch import Tensor

from trgl_kernels import launch, reference
from trgl_kernels.gradients import (
    batch_norm_relu_backward,
    batch_norm_residual_energy_backward,
    displacement_energy_backward,
    residual_energy_backward,
    residual_energy_layer_norm_backward,
)

if not TRITON:
    pytest.skip("only for TRGL_TEST_ENGINE=triton and cuda", allow_module_level=True)


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
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the kernels that ran."""
    return recorded(monkeypatch)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=SPLITS)
def split(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Launch constants under which small inputs are split."""
    for name, value in SPLITS[request.param].items():
        monkeypatch.setattr(launch, name, value)
    forget_settings()
    yield
    forget_settings()


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


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
@each_layout
def test_infinity_in_parts(layout: torch.memory_format, split: None, kernels: list[str]) -> None:
    z = normal((3, 6, 5, 5), layout)
    z[1, 2, 3, 3], z[0, 1, 0, 0], z[2, 5, 4, 4] = torch.inf, -torch.inf, torch.nan
    z[0, 4, 1, 1], z[2, 4, 0, 2] = torch.inf, -torch.inf
    z[1, 0, 0, 0], z[1, 0, 0, 1] = torch.inf, torch.inf
    running = torch.randn(6), torch.rand(6) + 0.5
    moved = tuple(t.double() for t in running)
    found = torch.ops.trgl.batch_norm_relu.default(z, None, None, *running, True, 0.1, 1e-5)
    exact = reference.batch_norm_relu(z.double(), None, None, *moved, training=True)
    assert [float(running[0][c]) for c in (0, 1, 2)] == [torch.inf, -torch.inf, torch.inf]
    for a, b in zip((*found, *running), (*exact, *moved), strict=True):
        torch.testing.assert_close(a.double(), b, atol=1e-5, rtol=1e-5, equal_nan=True)
    assert kernels.count("merge_kernel") == 1


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
