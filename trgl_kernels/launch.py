"""Launch settings of the GPU kernels: pure functions of shape and type, no autotuner.

Three ways to walk through a tensor of N samples, stored as [N, outer, C, inner]:

- *flat*: a program takes a chunk of one sample in memory order, whatever channels it crosses. Loads
  stay wide on planes of odd size, and a sample's energy is a sum over few chunks.
- *by channel*: a program takes a share of the values of one channel (or of a few neighbouring ones
  where channels come last), for sums over everything but the channels.
- *by row*: a program takes whole rows of C neighbours, for sums over the channels.

Elements are counted in groups of `vector` neighbours that share a channel, or that are neighbouring
channels where those come last: index arithmetic is done once per group, and the compiler can see
that a group is loaded as one.

The constants come from occupancy arithmetic (an H100 holds 132 x 16 blocks of 128 threads; two
16-byte loads per thread and tensor hide the latency), not from measurement.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

PROGRAMS = 2048  # programs that keep a large GPU busy
TILE_BYTES = 4096  # of the widest tensor: 128 threads with two 16-byte loads each
LONE_ELEMENTS = 1024  # of a tile whose groups hold one element
CHUNK_TILES = 4  # least work of a flat program before a sample is split
SHARE_TILES = 8  # least work of a program by channel before a channel is split
COLUMNS = 64  # neighbouring channels of one program where channels come last
SPLITS = 1024  # most parts of a sample or channel: they are combined in one tile
COMBINE_ELEMENTS = 2048  # partial sums that one program of a combining kernel holds
CACHED = 1024  # shapes whose settings are remembered: a launch looks them up every time
WIDEST = 4096  # channels of a row that a program can hold; wider rows are walked in tiles
ROW_WARPS = 8  # most warps of a program that holds wide rows
INDEX_LIMIT = 2**30  # positions inside a plane, and channels, are counted in 32 bits


def ceil_div(a: int, b: int) -> int:
    """⌈a / b⌉ for positive integers."""
    return -(-a // b)


def power_of_two(n: int) -> int:
    """The least power of two that is at least n."""
    return 1 << max(n - 1, 0).bit_length()


@dataclass(frozen=True)
class View:
    """How a tensor lies in memory as seen from its channels: [samples, outer, channels, inner]."""

    samples: int
    outer: int
    channels: int
    inner: int

    @cached_property
    def features(self) -> int:
        """Elements of one sample, D."""
        return self.outer * self.channels * self.inner

    @cached_property
    def last(self) -> bool:
        """Whether neighbours in memory are neighbouring channels."""
        return self.inner == 1

    @cached_property
    def values(self) -> int:
        """Values per channel, N·S."""
        return self.samples * self.outer * self.inner

    @cached_property
    def vector(self) -> int:
        """Neighbours that are loaded as one group: the widest of 8, 4, 2, 1 that fits."""
        return math.gcd(self.channels if self.last else self.inner, 8)

    @cached_property
    def plane(self) -> int:
        """Groups that share a channel index."""
        return 1 if self.last else self.inner // self.vector

    @cached_property
    def width(self) -> int:
        """Channel indices: channels, or groups of channels where those come last."""
        return self.channels // self.vector if self.last else self.channels


@lru_cache(maxsize=CACHED)
def view(
    shape: Sequence[int],  # [N, C, *]
    channels_last: bool,
    dim: int | None,
) -> View:
    """The view of a dense tensor from dimension `dim`; None where channels do not matter."""
    order = [0, *range(2, len(shape)), 1] if channels_last else list(range(len(shape)))
    if dim is None:
        return View(shape[0], 1, 1, math.prod(shape[1:]))
    at = order.index(dim)
    return View(
        samples=shape[0],
        outer=math.prod(shape[i] for i in order[1:at]),
        channels=shape[dim],
        inner=math.prod(shape[i] for i in order[at + 1 :]),
    )


def tile_elements(v: View, itemsize: int) -> int:
    """Elements of a full tile, `itemsize` bytes each in the widest tensor.

    Lone elements cost a thread more registers each: tiles of bfloat16 stay as small as float32's.
    """
    return min(TILE_BYTES // itemsize, LONE_ELEMENTS * v.vector)


def warps(elements: int) -> int:
    """Warps for a tile: 8 elements per thread, but never more than 4 warps."""
    return max(1, min(4, elements // 256))


@dataclass(frozen=True)
class FlatLaunch:
    """Grid of samples x chunks; `chunk` groups per program in tiles of rows x vector."""

    chunks: int
    chunk: int
    rows: int
    num_warps: int


@lru_cache(maxsize=CACHED)
def flat(v: View, itemsize: int) -> FlatLaunch:
    """Splits samples only as far as the GPU needs: one chunk needs no combining step."""
    groups = v.features // v.vector
    rows = min(tile_elements(v, itemsize) // v.vector, power_of_two(groups))
    tiles = ceil_div(groups, rows)
    wanted = min(ceil_div(PROGRAMS, v.samples), SPLITS)
    per_program = max(ceil_div(tiles, wanted), min(tiles, CHUNK_TILES))
    return FlatLaunch(
        chunks=ceil_div(tiles, per_program),
        chunk=per_program * rows,
        rows=rows,
        num_warps=warps(rows * v.vector),
    )


@dataclass(frozen=True)
class ChannelLaunch:
    """Grid of splits x blocks; `share` rows per program in tiles of rows x columns."""

    blocks: int
    splits: int
    share: int
    rows: int
    columns: int
    num_warps: int


@lru_cache(maxsize=CACHED)
def by_channel(v: View, itemsize: int) -> ChannelLaunch:
    """Splits the values of a channel where there are too few channels to fill the GPU."""
    columns = min(COLUMNS, power_of_two(v.channels)) if v.last else v.vector
    blocks = ceil_div(v.channels, columns) if v.last else v.channels
    groups = v.samples * v.outer * v.plane
    rows = min(tile_elements(v, itemsize) // columns, power_of_two(groups))
    tiles = ceil_div(groups, rows)
    wanted = min(ceil_div(PROGRAMS, blocks), SPLITS)
    per_program = max(ceil_div(tiles, wanted), min(tiles, SHARE_TILES))
    return ChannelLaunch(
        blocks=blocks,
        splits=ceil_div(tiles, per_program),
        share=per_program * rows,
        rows=rows,
        columns=columns,
        num_warps=warps(rows * columns),
    )


@dataclass(frozen=True)
class RowLaunch:
    """Grid of groups x splits x blocks; `share` rows per program in tiles of rows x columns.

    Rows that a program cannot hold are cut into `blocks` of columns.
    """

    blocks: int
    splits: int
    share: int
    rows: int
    columns: int
    num_warps: int


@lru_cache(maxsize=CACHED)
def by_row(v: View, groups: int) -> RowLaunch:
    """Splits the rows of each group: of a sample (`groups` = samples), or all rows (1)."""
    whole = v.channels <= WIDEST
    columns = power_of_two(v.channels) if whole else min(LONE_ELEMENTS, WIDEST)
    blocks = ceil_div(v.channels, columns)
    lines = v.samples * v.outer // groups
    rows = min(max(LONE_ELEMENTS // columns, 1), power_of_two(lines))
    tiles = ceil_div(lines, rows)
    wanted = min(ceil_div(PROGRAMS, groups * blocks), max(SPLITS // blocks, 1))
    per_program = max(ceil_div(tiles, wanted), min(tiles, CHUNK_TILES))
    return RowLaunch(
        blocks=blocks,
        splits=ceil_div(tiles, per_program),
        share=per_program * rows,
        rows=rows,
        columns=columns,
        num_warps=max(1, min(ROW_WARPS, rows * columns // 256)),
    )


@dataclass(frozen=True)
class CombineLaunch:
    """Grid of column blocks; each program holds all rows of its columns in one tile."""

    blocks: int
    rows: int
    columns: int


@lru_cache(maxsize=CACHED)
def combine(rows: int, columns: int) -> CombineLaunch:
    """Tiles that sum `rows` partial results for each of `columns`."""
    height = power_of_two(rows)
    width = min(max(COMBINE_ELEMENTS // height, 1), 64, power_of_two(columns))
    return CombineLaunch(blocks=ceil_div(columns, width), rows=height, columns=width)
