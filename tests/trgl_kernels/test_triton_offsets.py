"""Offsets of the Triton engine beyond 32 bits: the arithmetic of elements, rows and channels."""

import pytest
import torch
from oracle import TRITON

from trgl_kernels import launch

if not TRITON:
    pytest.skip("only for TRGL_TEST_ENGINE=triton and cuda", allow_module_level=True)

import triton
import triton.language as tl

from trgl_kernels.cuda.tiles import channel_rows, flat_channel


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
