"""Launch settings: they cover every element once, fill a GPU, and spare small inputs a kernel."""

import pytest
import torch

from trgl_kernels import launch

SHAPES = [
    (2, 8, 4, 4),
    (8, 64, 14, 14),
    (64, 16, 96, 96),
    (256, 2048, 7, 7),
    (128, 64, 32, 32),
    (3, 5, 7, 11),
    (1, 1, 1, 1),
    (5, 17),
    (64, 197, 768),
    (2, 3, 4, 5, 6),
    (70_000, 64, 32, 32),
    (1, 3, 4096, 4096),
]
LAYOUTS = [False, True]
TYPES = [2, 4]

each_shape = pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))
each_layout = pytest.mark.parametrize("last", LAYOUTS, ids=["contiguous", "channels_last"])
each_type = pytest.mark.parametrize("itemsize", TYPES, ids=["2bytes", "4bytes"])


@pytest.mark.parametrize(("shape", "dim"), [((2, 6, 5, 3), 1), ((2, 6, 5, 3), 2), ((2, 5, 12), 2)])
@each_layout
def test_a_view_names_the_channel_of_every_element(
    shape: tuple[int, ...], dim: int, last: bool
) -> None:
    v = launch.view(shape, last, dim)
    channel = torch.arange(shape[dim]).reshape([-1 if i == dim else 1 for i in range(len(shape))])
    stored = channel.expand(shape)
    if last:
        stored = stored.movedim(1, -1)
    flat = torch.arange(v.samples * v.features)
    assert torch.equal(stored.reshape(-1), flat // v.inner % v.channels)
    assert v.values * v.channels == flat.numel()


def test_a_view_without_channels_is_one_row_per_sample() -> None:
    assert launch.view((4, 3, 5, 5), True, None) == launch.View(4, 1, 1, 75)


@each_shape
@each_layout
def test_a_group_never_crosses_a_channel_boundary(shape: tuple[int, ...], last: bool) -> None:
    v = launch.view(shape, last, 1)
    assert v.vector in (1, 2, 4, 8)
    assert (v.channels if v.last else v.inner) % v.vector == 0
    assert v.plane * v.width * v.vector == v.inner * v.channels


@each_shape
@each_layout
@each_type
def test_chunks_cover_each_sample_once(shape: tuple[int, ...], last: bool, itemsize: int) -> None:
    v = launch.view(shape, last, 1)
    settings = launch.flat(v, itemsize)
    groups = v.features // v.vector
    assert settings.chunk % settings.rows == 0
    assert (settings.chunks - 1) * settings.chunk < groups <= settings.chunks * settings.chunk
    assert settings.rows * v.vector * itemsize <= launch.TILE_BYTES
    assert settings.chunk * v.vector + v.inner < 2**31


@each_shape
@each_layout
@each_type
def test_shares_cover_each_channel_once(shape: tuple[int, ...], last: bool, itemsize: int) -> None:
    v = launch.view(shape, last, 1)
    settings = launch.by_channel(v, itemsize)
    groups = v.samples * v.outer * v.plane
    covered = settings.blocks * (settings.columns if v.last else 1)
    assert settings.share % settings.rows == 0
    assert (settings.splits - 1) * settings.share < groups <= settings.splits * settings.share
    assert covered - settings.columns < v.channels <= covered
    assert settings.rows * settings.columns * itemsize <= launch.TILE_BYTES
    assert settings.share + v.plane < 2**31


@each_shape
@pytest.mark.parametrize("together", [True, False])
def test_shares_cover_each_row_once(shape: tuple[int, ...], together: bool) -> None:
    v = launch.view(shape, False, len(shape) - 1)
    groups = 1 if together else v.samples
    settings = launch.by_row(v, groups)
    lines = v.samples * v.outer // groups
    assert settings.share % settings.rows == 0
    assert (settings.splits - 1) * settings.share < lines <= settings.splits * settings.share
    assert settings.columns * (settings.blocks - 1) < v.channels
    assert v.channels <= settings.columns * settings.blocks
    assert (settings.blocks == 1) == (v.channels <= launch.WIDEST)
    assert settings.blocks > 1 or settings.columns < 2 * v.channels
    assert settings.splits * settings.blocks <= launch.SPLITS
    assert settings.share + settings.rows < 2**31


@pytest.mark.parametrize("shape", [(64, 784, 384), (1, 50_000, 768), (256, 196, 64)], ids=str)
def test_grids_by_row_fill_a_gpu(shape: tuple[int, ...]) -> None:
    v = launch.view(shape, False, len(shape) - 1)
    for groups in (1, v.samples):
        settings = launch.by_row(v, groups)
        assert groups * settings.splits * settings.num_warps >= 4 * 132


@pytest.mark.parametrize("width", [1, 7, 384, 1025, launch.WIDEST])
def test_a_thread_holds_at_most_sixteen_elements_of_a_tile_of_rows(width: int) -> None:
    settings = launch.by_row(launch.view((64, 784, width), False, 2), 1)
    assert settings.rows * settings.columns <= 16 * 32 * settings.num_warps


@pytest.mark.parametrize(
    "shape",
    [(64, 16, 96, 96), (256, 2048, 7, 7), (256, 2048, 14, 14), (1, 16, 2048, 2048)],
    ids=str,
)
@each_layout
@each_type
def test_grids_fill_a_gpu(shape: tuple[int, ...], last: bool, itemsize: int) -> None:
    v = launch.view(shape, last, 1)
    multiprocessors = 132
    flat, shared = launch.flat(v, itemsize), launch.by_channel(v, itemsize)
    assert v.samples * flat.chunks >= 4 * multiprocessors
    assert shared.blocks * shared.splits >= 4 * multiprocessors


@pytest.mark.parametrize("shape", [(2, 8, 4, 4), (512, 64, 8, 8), (16, 10)], ids=str)
@each_layout
def test_small_samples_need_no_combining_kernel(shape: tuple[int, ...], last: bool) -> None:
    v = launch.view(shape, last, 1)
    assert launch.flat(v, 4).chunks == 1


def test_small_channels_need_no_combining_kernel() -> None:
    for shape in ((2, 8, 4, 4), (8, 64, 14, 14), (256, 2048, 7, 7)):
        assert launch.by_channel(launch.view(shape, False, 1), 4).splits == 1


@pytest.mark.parametrize("rows", [1, 2, 3, 100, launch.SPLITS])
@pytest.mark.parametrize("columns", [1, 16, 1000, 5000])
def test_a_combining_tile_holds_all_rows(rows: int, columns: int) -> None:
    tile = launch.combine(rows, columns)
    assert tile.rows >= rows
    assert tile.rows * tile.columns <= launch.COMBINE_ELEMENTS
    assert (tile.blocks - 1) * tile.columns < columns <= tile.blocks * tile.columns


@each_shape
@each_layout
def test_parts_fit_one_combining_tile(shape: tuple[int, ...], last: bool) -> None:
    v = launch.view(shape, last, 1)
    assert launch.flat(v, 4).chunks <= launch.SPLITS
    assert launch.by_channel(v, 4).splits <= launch.SPLITS


def test_power_of_two() -> None:
    assert [launch.power_of_two(n) for n in (1, 2, 3, 4, 5, 1024, 1025)] == [
        1, 2, 4, 4, 8, 1024, 2048
    ]  # fmt: skip
