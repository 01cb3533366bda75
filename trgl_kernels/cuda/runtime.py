"""What every launch on the host goes through: supported inputs, one layout, one device."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from .. import launch
from .tiles import column_sums_kernel

TYPES = (torch.float32, torch.bfloat16, torch.float16)


def supported(v: launch.View, *dtypes: torch.dtype) -> bool:
    """Whether the kernels apply; otherwise (float64, nothing to do) the reference answers."""
    within = max(v.inner, v.channels, v.outer) < launch.INDEX_LIMIT
    return v.samples * v.features > 0 and within and set(dtypes) <= set(TYPES)


def dense(
    tensor: Tensor | None,  # [N, C, *]
    layout: torch.memory_format,
) -> Tensor | None:
    """The tensor in `layout`; itself where it already is."""
    return None if tensor is None else tensor.contiguous(memory_format=layout)


def vector(tensor: Tensor | None) -> Tensor | None:  # C values
    """Channel parameters, one after the other in memory."""
    return None if tensor is None else tensor.contiguous()


def step(tensor: Tensor | None) -> int:  # [N]
    """Distance between neighbours of a vector that may be expanded or strided."""
    return 0 if tensor is None else tensor.stride(0)


def on_device(tensor: Tensor) -> AbstractContextManager[Any]:
    """Makes the tensor's GPU the current one, as Triton expects."""
    if not tensor.is_cuda or tensor.device.index == torch.cuda.current_device():
        return nullcontext()
    return torch.cuda.device(tensor.device)


def run(kernel: Any, programs: int, *args: Any, num_warps: int, **constants: Any) -> None:
    """Launches a kernel on a one-dimensional grid: the only place where that happens.

    Contracting a*b + c into one instruction is asked for by name: Triton's default is about to
    change, and results must not change with it.
    """
    kernel[(programs,)](*args, num_warps=num_warps, enable_fp_fusion=True, **constants)


def run_flat(
    kernel: Any, v: launch.View, settings: launch.FlatLaunch, *args: Any, **constants: Any
) -> None:
    """Launches a kernel that walks flat: its arguments end with those of the walk."""
    run(
        kernel,
        v.samples * settings.chunks,
        *args,
        v.features // v.vector,
        v.plane,
        v.width,
        settings.chunks,
        settings.chunk,
        num_warps=settings.num_warps,
        **constants,
        LAST=v.last,
        WRAP=v.outer > 1,
        ROWS=settings.rows,
        VECTOR=v.vector,
    )


def run_by_channel(
    kernel: Any, v: launch.View, settings: launch.ChannelLaunch, *args: Any, **constants: Any
) -> None:
    """Launches a kernel that walks by channel: its arguments end with those of the walk."""
    run(
        kernel,
        settings.blocks * settings.splits,
        *args,
        v.samples * v.outer * v.plane,
        v.plane,
        v.width,
        v.outer,
        settings.blocks,
        settings.share,
        num_warps=settings.num_warps,
        **constants,
        LAST=v.last,
        ROWS=settings.rows,
        COLUMNS=settings.columns,
        VECTOR=v.vector,
    )


def energy_parts(
    energy: Tensor,  # [N], or empty where no energy is wanted
    parts: int,
) -> Tensor:  # [parts, N]
    """Where programs leave their shares of the energies: a sample's only share is its energy."""
    if parts == 1 or energy.numel() == 0:
        return energy
    return energy.new_empty((parts, energy.numel()))


def run_by_row(
    kernel: Any, groups: int, settings: launch.RowLaunch, *args: Any, **constants: Any
) -> None:
    """Launches a kernel that walks by row: its arguments end with blocks and a share of rows."""
    run(
        kernel,
        groups * settings.splits * settings.blocks,
        *args,
        settings.blocks,
        settings.share,
        num_warps=settings.num_warps,
        **constants,
        ROWS=settings.rows,
        COLUMNS=settings.columns,
    )


def run_over_rows(
    kernel: Any, v: launch.View, settings: launch.RowLaunch, *args: Any, **constants: Any
) -> None:
    """Launches a kernel that walks through one row each, tile by tile."""
    run(
        kernel,
        v.samples * v.outer,
        *args,
        v.outer,
        v.channels,
        num_warps=settings.num_warps,
        **constants,
        COLUMNS=settings.columns,
    )


def column_sums(
    first: Tensor,  # [R, W]
    first_sum: Tensor,  # [W]
    second: Tensor | None = None,  # [R, W]
    second_sum: Tensor | None = None,  # [W]
) -> None:
    """Sums over rows in a fixed order, into tensors of any type."""
    rows, columns = first.shape
    tile = launch.combine(rows, columns)
    run(
        column_sums_kernel,
        tile.blocks,
        first,
        first_sum,
        second,
        second_sum,
        rows,
        columns,
        num_warps=4,
        ROWS=tile.rows,
        COLUMNS=tile.columns,
    )
