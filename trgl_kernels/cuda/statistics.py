"""Triton kernels for the statistics of batch normalization: mean and 1/√(variance + eps).

Each lane follows Welford's recurrence over its own values; lanes, and then the programs that share
a channel, are merged as triples (count, mean, M2) in a fixed order:

    n = Σ n_i,   mean = Σ n_i·mean_i / n,   M2 = Σ M2_i + Σ n_i·(mean_i − mean)²

An infinite value makes the mean what a sum of the values says, ∞, −∞ or NaN, and M2 NaN.

The running statistics move by PyTorch's rule, the variance unbiased:

    running ← (1 − momentum)·running + momentum·(mean, M2 / (n − 1))
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import launch
from .runtime import run, run_by_channel
from .tiles import channel_program, channel_rows, over_rows


@triton.jit
def infinite(x):
    """Whether x is ∞ or −∞."""
    return tl.abs(x) == float("inf")


@triton.jit
def finish(
    mean,
    m2,
    count,
    channel,
    inside,
    mean_ptr,  # [C]
    rstd_ptr,  # [C]
    running_mean_ptr,  # [C] or None
    running_var_ptr,  # [C] or None
    momentum,
    decay,
    eps,
):
    """Writes what BN normalizes with and moves the running statistics."""
    tl.store(mean_ptr + channel, mean, inside)
    rstd = tl.div_rn(1.0, tl.sqrt_rn(m2 / count + eps))
    tl.store(rstd_ptr + channel, rstd, inside)
    if running_mean_ptr is not None:
        old = tl.load(running_mean_ptr + channel, inside, other=0.0).to(tl.float32)
        tl.store(running_mean_ptr + channel, decay * old + momentum * mean, inside)
        old = tl.load(running_var_ptr + channel, inside, other=0.0).to(tl.float32)
        unbiased = m2 / (count - 1.0)
        tl.store(running_var_ptr + channel, decay * old + momentum * unbiased, inside)


@triton.jit
def batch_kernel(
    z_ptr,  # [N, C, *]
    means_ptr,  # [splits, C] or None
    m2s_ptr,  # [splits, C] or None
    mean_ptr,  # [C]
    rstd_ptr,  # [C]
    running_mean_ptr,  # [C] or None
    running_var_ptr,  # [C] or None
    momentum,
    decay,
    eps,
    groups,
    plane,
    width,
    outer,
    blocks,
    share,
    LAST: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    VECTOR: tl.constexpr,
):
    """Mean and M2 of one share of some channels; the whole result where it is not shared."""
    part, channel, channels = channel_program(blocks, width, COLUMNS, VECTOR, LAST)
    first = part * share
    inside = channel < channels
    mean = tl.zeros((ROWS, COLUMNS), tl.float32)
    m2 = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, share, ROWS):
        row = start + tl.arange(0, ROWS)[:, None]
        offset, mask, _ = channel_rows(
            first, row, groups, plane, outer, channel, channels, COLUMNS, LAST
        )
        z = tl.load(z_ptr + offset, mask, other=0.0).to(tl.float32)
        delta = tl.where(mask, z - mean, 0.0)
        delta = tl.where(infinite(mean), z, delta)  # ∞ − ∞ would be NaN, and M2 is already
        mean += delta * (1.0 / (start // ROWS + 1))
        m2 += delta * (z - mean)
    # only the last tile of a share can have rows that hold nothing
    rows = tl.minimum(groups - first, share).to(tl.int32)
    counts = ((rows - tl.arange(0, ROWS)[:, None] + ROWS - 1) // ROWS).to(tl.float32)
    count = rows.to(tl.float32)
    if not LAST:
        count *= COLUMNS
    # the second sum takes back what the first lost where the mean is far from 0
    merged = over_rows(counts * mean, LAST) / count
    lost = over_rows(counts * (mean - merged), LAST) / count
    merged += tl.where(infinite(merged), 0.0, lost)
    spread = mean - merged
    m2 = over_rows(m2 + counts * spread * spread, LAST)
    if means_ptr is not None:
        tl.store(means_ptr + part * channels + channel, merged, inside)
        tl.store(m2s_ptr + part * channels + channel, m2, inside)
    else:
        finish(
            merged,
            m2,
            count,
            channel,
            inside,
            mean_ptr,
            rstd_ptr,
            running_mean_ptr,
            running_var_ptr,
            momentum,
            decay,
            eps,
        )


@triton.jit
def merge_kernel(
    means_ptr,  # [splits, C]
    m2s_ptr,  # [splits, C]
    mean_ptr,  # [C]
    rstd_ptr,  # [C]
    running_mean_ptr,  # [C] or None
    running_var_ptr,  # [C] or None
    momentum,
    decay,
    eps,
    values,
    share,
    splits,
    channels,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Merges the shares of each channel; `share` of its `values` belong to every split."""
    row = tl.arange(0, ROWS)[:, None].to(tl.int64)
    channel = tl.program_id(0).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    inside = channel < channels
    mask = (row < splits) & inside
    offset = row * channels + channel
    means = tl.load(means_ptr + offset, mask, other=0.0)
    m2s = tl.load(m2s_ptr + offset, mask, other=0.0)
    counts = tl.maximum(tl.minimum(values - row * share, share), 0).to(tl.float32)
    count = tl.sum(counts, 0, keep_dims=True)
    mean = tl.sum(counts * means, 0, keep_dims=True) / count
    lost = tl.sum(counts * (means - mean), 0, keep_dims=True) / count
    mean += tl.where(infinite(mean), 0.0, lost)
    spread = means - mean
    m2 = tl.sum(m2s + counts * spread * spread, 0, keep_dims=True)
    finish(
        mean,
        m2,
        count,
        channel,
        inside,
        mean_ptr,
        rstd_ptr,
        running_mean_ptr,
        running_var_ptr,
        momentum,
        decay,
        eps,
    )


@triton.jit
def running_kernel(
    running_mean_ptr,  # [C]
    running_var_ptr,  # [C]
    mean_ptr,  # [C]
    rstd_ptr,  # [C]
    eps,
    channels,
    COLUMNS: tl.constexpr,
):
    """Evaluation: a copy of the running mean, and 1/√(running variance + eps)."""
    channel = tl.program_id(0).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
    inside = channel < channels
    mean = tl.load(running_mean_ptr + channel, inside, other=0.0).to(tl.float32)
    var = tl.load(running_var_ptr + channel, inside, other=1.0).to(tl.float32)
    tl.store(mean_ptr + channel, mean, inside)
    tl.store(rstd_ptr + channel, tl.div_rn(1.0, tl.sqrt_rn(var + eps)), inside)


def batch_statistics(
    z: Tensor,  # [N, C, *], dense
    v: launch.View,
    running_mean: Tensor | None,  # [C]
    running_var: Tensor | None,  # [C]
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor]:  # [C], [C]
    """Mean and rstd of the batch; moves the running statistics in place."""
    mean = z.new_empty(v.channels, dtype=torch.float32)
    rstd = torch.empty_like(mean)
    # a strided buffer is moved through a dense copy
    moved_mean = None if running_mean is None else running_mean.contiguous()
    moved_var = None if running_var is None else running_var.contiguous()
    results = (mean, rstd, moved_mean, moved_var, momentum, 1.0 - momentum, eps)
    settings = launch.by_channel(v, z.element_size())
    means = m2s = None
    if settings.splits > 1:
        means, m2s = z.new_empty((2, settings.splits, v.channels), dtype=torch.float32).unbind()
    run_by_channel(batch_kernel, v, settings, z, means, m2s, *results)
    if means is not None:
        tile = launch.combine(settings.splits, v.channels)
        run(
            merge_kernel,
            tile.blocks,
            means,
            m2s,
            *results,
            v.values,
            settings.share * (1 if v.last else v.vector),
            settings.splits,
            v.channels,
            num_warps=4,
            ROWS=tile.rows,
            COLUMNS=tile.columns,
        )
    for running, moved in ((running_mean, moved_mean), (running_var, moved_var)):
        if running is not None and moved is not None and moved is not running:
            running.copy_(moved)
    return mean, rstd


def running_statistics(
    running_mean: Tensor,  # [C]
    running_var: Tensor,  # [C]
    eps: float,
) -> tuple[Tensor, Tensor]:  # [C], [C]
    """Mean and rstd that evaluation normalizes with, as copies that later updates do not move."""
    channels = running_mean.numel()
    mean = running_mean.new_empty(channels, dtype=torch.float32)
    rstd = torch.empty_like(mean)
    run(
        running_kernel,
        launch.ceil_div(channels, 256),
        running_mean.contiguous(),
        running_var.contiguous(),
        mean,
        rstd,
        eps,
        channels,
        num_warps=4,
        COLUMNS=256,
    )
    return mean, rstd
