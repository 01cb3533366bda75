"""Triton kernels of the gradient of batch normalization, for every operator that has one.

    g = ∂L/∂y where y > 0 (everywhere without a ReLU)      ∂L/∂x = g
    h = keep·(g + ∂L/∂e_i · p |q|^(p-1) sign(q))           ∂L/∂β = Σh,  ∂L/∂γ = Σh·ẑ
    ∂L/∂z = γ·rstd·(h − Σh/M − ẑ·Σ(h·ẑ)/M)                 M = N·S values per channel
            γ·rstd·h in evaluation

with ẑ = (z − mean)·rstd and q = keep·(γ·ẑ + β) computed again. RECTIFY is the case without a
shortcut, y = max(γ·ẑ + β, 0), where y is computed again too: no map of it is read. One walk by
channel takes the two sums, one flat walk the gradients of z and x. Sums are partial sums of one
program each, added in a fixed order by a second kernel where there is more than one.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import launch
from .batch_norm_residual_energy import affine
from .runtime import column_sums, run_by_channel
from .tiles import (
    channel_program,
    channel_rows,
    flat_channel,
    flat_program,
    normalized,
    over_rows,
    residue_gradient,
    slope_and_bias,
    sum_gradient,
)


@triton.jit
def backward_sums_kernel(
    grad_y_ptr,  # [N, C, *] or None
    grad_energy_ptr,  # [N] or None
    z_ptr,  # [N, C, *]
    y_ptr,  # [N, C, *] or None
    weight_ptr,  # [C] or None
    bias_ptr,  # [C] or None
    mean_ptr,  # [C]
    rstd_ptr,  # [C]
    keep_ptr,  # [N] or None
    grad_x_ptr,  # [N, C, *] or None
    sum_h_ptr,  # [splits, C]
    sum_hz_ptr,  # [splits, C]
    grad_energy_step,
    keep_step,
    groups,
    plane,
    width,
    outer,
    blocks,
    share,
    P: tl.constexpr,
    RECTIFY: tl.constexpr,
    LAST: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    VECTOR: tl.constexpr,
):
    """One share of some channels: its part of Σh and Σh·ẑ, and the gradient of x on the way."""
    part, channel, channels = channel_program(blocks, width, COLUMNS, VECTOR, LAST)
    first = part * share
    inside = channel < channels
    mean = tl.load(mean_ptr + channel, inside, other=0.0)
    rstd = tl.load(rstd_ptr + channel, inside, other=0.0)
    slope = rstd
    bias = tl.zeros(mean.shape, tl.float32)
    if weight_ptr is not None:
        weight = tl.load(weight_ptr + channel, inside, other=0.0).to(tl.float32)
        slope = rstd * weight
    if bias_ptr is not None:
        bias = tl.load(bias_ptr + channel, inside, other=0.0).to(tl.float32)
    sum_h = tl.zeros((ROWS, COLUMNS), tl.float32)
    sum_hz = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, share, ROWS):
        row = start + tl.arange(0, ROWS)[:, None]
        offset, mask, sample = channel_rows(
            first, row, groups, plane, outer, channel, channels, COLUMNS, LAST
        )
        h = sum_gradient(grad_y_ptr, y_ptr, offset, mask)
        if grad_x_ptr is not None:
            tl.store(grad_x_ptr + offset, h, mask)
        centred = tl.load(z_ptr + offset, mask, other=0.0).to(tl.float32) - mean
        if RECTIFY:
            h = tl.where(normalized(centred, slope, bias) <= 0, 0.0, h)
        z_hat = centred * rstd
        q = z_hat
        if weight_ptr is not None:
            q *= weight
        if bias_ptr is not None:
            q += bias
        one = first + row < groups
        h = residue_gradient(
            h, q, grad_energy_ptr, keep_ptr, sample, grad_energy_step, keep_step, one, P
        )
        h = tl.where(mask, h, 0.0)
        sum_h += h
        sum_hz += tl.where(mask, h * z_hat, 0.0)
    offset = part * channels + channel
    tl.store(sum_h_ptr + offset, over_rows(sum_h, LAST), inside)
    tl.store(sum_hz_ptr + offset, over_rows(sum_hz, LAST), inside)


@triton.jit
def backward_kernel(
    grad_y_ptr,  # [N, C, *] or None
    grad_energy_ptr,  # [N] or None
    z_ptr,  # [N, C, *]
    y_ptr,  # [N, C, *] or None
    weight_ptr,  # [C] or None
    bias_ptr,  # [C] or None
    mean_ptr,  # [C]
    rstd_ptr,  # [C]
    keep_ptr,  # [N] or None
    grad_x_ptr,  # [N, C, *] or None
    grad_z_ptr,  # [N, C, *] or None
    sum_h_ptr,  # [C] or None
    sum_hz_ptr,  # [C] or None
    grad_energy_step,
    keep_step,
    per_value,  # 1 / M
    groups,
    plane,
    width,
    chunks,
    chunk,
    P: tl.constexpr,
    RECTIFY: tl.constexpr,
    LAST: tl.constexpr,
    WRAP: tl.constexpr,
    ROWS: tl.constexpr,
    VECTOR: tl.constexpr,
):
    """One chunk of one sample: the gradients of z and x."""
    sample, _, first = flat_program(chunks, chunk)
    base = (sample * groups + first) * VECTOR
    column = tl.arange(0, VECTOR)[None, :]
    for start in range(0, chunk, ROWS):
        row = start + tl.arange(0, ROWS)[:, None]
        mask = first + row < groups
        offset = base + row * VECTOR + column
        h = sum_gradient(grad_y_ptr, y_ptr, offset, mask)
        if grad_x_ptr is not None:
            tl.store(grad_x_ptr + offset, h, mask)
        if grad_z_ptr is not None:
            channel = flat_channel(first, row, column, plane, width, VECTOR, LAST, WRAP)
            mean = tl.load(mean_ptr + channel, mask, other=0.0)
            rstd = tl.load(rstd_ptr + channel, mask, other=0.0)
            centred = tl.load(z_ptr + offset, mask, other=0.0).to(tl.float32) - mean
            if RECTIFY:
                slope, bias = slope_and_bias(rstd, weight_ptr, bias_ptr, channel, mask)
                h = tl.where(normalized(centred, slope, bias) <= 0, 0.0, h)
            z_hat = centred * rstd
            q = affine(z_hat, weight_ptr, bias_ptr, channel, mask)
            h = residue_gradient(
                h, q, grad_energy_ptr, keep_ptr, sample, grad_energy_step, keep_step, None, P
            )
            if sum_h_ptr is not None:
                h -= tl.load(sum_h_ptr + channel, mask, other=0.0) * per_value
                h -= z_hat * (tl.load(sum_hz_ptr + channel, mask, other=0.0) * per_value)
            h *= rstd
            if weight_ptr is not None:
                h *= tl.load(weight_ptr + channel, mask, other=0.0).to(tl.float32)
            tl.store(grad_z_ptr + offset, h, mask)


def backward_sums(
    v: launch.View,
    itemsize: int,
    inputs: tuple[Any, ...],
    steps: tuple[int, int],
    grad_x: Tensor | None,  # [N, C, *]
    p: float,
    rectify: bool = False,
) -> tuple[Tensor, Tensor]:  # [C], [C]
    """Σh and Σh·ẑ per channel; writes the gradient of x where it is given."""
    z = inputs[2]
    settings = launch.by_channel(v, itemsize)
    sum_h = z.new_empty(v.channels, dtype=torch.float32)
    sum_hz = torch.empty_like(sum_h)
    parts = (sum_h, sum_hz)
    if settings.splits > 1:
        parts = z.new_empty((2, settings.splits, v.channels), dtype=torch.float32).unbind()
    run_by_channel(
        backward_sums_kernel,
        v,
        settings,
        *inputs,
        grad_x,
        *parts,
        *steps,
        P=p,
        RECTIFY=rectify,
    )
    if settings.splits > 1:
        column_sums(parts[0], sum_h, parts[1], sum_hz)
    return sum_h, sum_hz
