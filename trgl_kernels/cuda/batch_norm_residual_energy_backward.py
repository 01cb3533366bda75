"""Triton kernels of `batch_norm_residual_energy_backward`.

    g = ∂L/∂y where y > 0 (everywhere without a ReLU)      ∂L/∂x = g
    h = keep·(g + ∂L/∂e_i · p |q|^(p-1) sign(q))           ∂L/∂β = Σh,  ∂L/∂γ = Σh·ẑ
    ∂L/∂z = γ·rstd·(h − Σh/M − ẑ·Σ(h·ẑ)/M)                 M = N·S values per channel
            γ·rstd·h in evaluation

with ẑ = (z − mean)·rstd and q = keep·(γ·ẑ + β) computed again. One walk by channel takes the two
sums, one flat walk the gradients of z and x. Sums are partial sums of one program each, added in a
fixed order by a second kernel where there is more than one.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import gradients, launch
from ..reference import memory_format
from .batch_norm_residual_energy import affine
from .runtime import (
    column_sums,
    dense,
    on_device,
    run_by_channel,
    run_flat,
    step,
    supported,
    vector,
)
from .tiles import (
    channel_program,
    channel_rows,
    flat_channel,
    flat_program,
    over_rows,
    residue_gradient,
    sum_gradient,
)


@triton.jit
def backward_sums_kernel(
    grad_y_ptr,
    grad_energy_ptr,
    z_ptr,
    y_ptr,
    weight_ptr,
    bias_ptr,
    mean_ptr,
    rstd_ptr,
    keep_ptr,
    grad_x_ptr,
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
    if weight_ptr is not None:
        weight = tl.load(weight_ptr + channel, inside, other=0.0).to(tl.float32)
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
        z_hat = (tl.load(z_ptr + offset, mask, other=0.0).to(tl.float32) - mean) * rstd
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
    grad_y_ptr,
    grad_energy_ptr,
    z_ptr,
    y_ptr,
    weight_ptr,
    bias_ptr,
    mean_ptr,
    rstd_ptr,
    keep_ptr,
    grad_x_ptr,
    grad_z_ptr,
    sum_h_ptr,
    sum_hz_ptr,
    grad_energy_step,
    keep_step,
    per_value,  # 1 / M
    groups,
    plane,
    width,
    chunks,
    chunk,
    P: tl.constexpr,
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
            z_hat = (tl.load(z_ptr + offset, mask, other=0.0).to(tl.float32) - mean) * rstd
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
) -> tuple[Tensor, Tensor]:  # [C], [C]
    """Σh and Σh·ẑ per channel; writes the gradient of x where it is given."""
    z = inputs[2]
    settings = launch.by_channel(v, itemsize)
    sum_h = z.new_empty(v.channels, dtype=torch.float32)
    sum_hz = torch.empty_like(sum_h)
    parts = (sum_h, sum_hz)
    if settings.splits > 1:
        parts = z.new_empty((2, settings.splits, v.channels), dtype=torch.float32).unbind()
    run_by_channel(backward_sums_kernel, v, settings, *inputs, grad_x, *parts, *steps, P=p)
    if settings.splits > 1:
        column_sums(parts[0], sum_h, parts[1], sum_hz)
    return sum_h, sum_hz


def backward(
    grad_y: Tensor | None,  # [N, C, *]
    grad_energy: Tensor | None,  # [N]
    z: Tensor,  # [N, C, *]
    y: Tensor | None,  # [N, C, *], only with a ReLU
    weight: Tensor | None,  # [C]
    bias: Tensor | None,  # [C]
    mean: Tensor,  # [C]
    rstd: Tensor,  # [C]
    training: bool,
    activation: str,
    keep: Tensor | None,  # [N]
    p: float,
    x_dtype: torch.dtype,
    output_mask: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # [N, C, *], [N, C, *], [C], [C]
    """`trgl::batch_norm_residual_energy_backward`."""
    layout = memory_format(z)
    v = launch.view(z.shape, layout != torch.contiguous_format, 1)
    if not supported(v, z.dtype, x_dtype):
        return gradients.batch_norm_residual_energy_backward(
            grad_y,
            grad_energy,
            z,
            y,
            weight,
            bias,
            mean,
            rstd,
            training,
            activation,
            keep,
            p,
            x_dtype,
            output_mask,
        )
    wants_z, wants_x = output_mask[:2]
    wants_weight = output_mask[2] and weight is not None
    wants_bias = output_mask[3] and bias is not None
    z, grad_y = z.contiguous(memory_format=layout), dense(grad_y, layout)
    y = None if grad_y is None else dense(y, layout)
    grad_z = torch.empty_like(z) if wants_z else z.new_empty(0)
    grad_x = torch.empty_like(z, dtype=x_dtype) if wants_x else z.new_empty(0)
    grad_weight, grad_bias = z.new_empty(0), z.new_empty(0)
    sum_h = sum_hz = None
    steps = (step(grad_energy), step(keep))
    parameters = (vector(weight), vector(bias), mean.contiguous(), rstd.contiguous(), keep)
    itemsize = torch.promote_types(z.dtype, x_dtype).itemsize
    with on_device(z):
        if (training and wants_z) or wants_weight or wants_bias:
            # masked once, the gradient of x replaces that of y and y itself: one map less to read
            masked = wants_x and grad_y is not None and y is not None and x_dtype == grad_y.dtype
            sum_h, sum_hz = backward_sums(
                v,
                itemsize,
                (grad_y, grad_energy, z, y, *parameters),
                steps,
                grad_x if masked else None,
                p,
            )
            if wants_weight and weight is not None:
                grad_weight = sum_hz.to(weight.dtype)
            if wants_bias and bias is not None:
                grad_bias = sum_h.to(bias.dtype)
            if masked:
                grad_y, y, wants_x = grad_x, None, False
        if wants_z or wants_x:
            settings = launch.flat(v, itemsize)
            run_flat(
                backward_kernel,
                v,
                settings,
                grad_y,
                grad_energy,
                z,
                y,
                *parameters,
                grad_x if wants_x else None,
                grad_z if wants_z else None,
                sum_h if training else None,
                sum_hz if training else None,
                *steps,
                1.0 / v.values,
                P=p,
            )
    return grad_z, grad_x, grad_weight, grad_bias
