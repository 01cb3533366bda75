"""Triton kernel of `residual_energy_layer_norm`, backward, with q = keep·scale·r or y − x.

    ŷ = (y − mean)·rstd,   g = weight·∂L/∂normed
    u = ∂L/∂y + rstd·(g − mean(g) − ŷ·mean(g·ŷ))            ∂L/∂x = u
    h = keep·(u + ∂L/∂e_i · p |q|^(p-1) sign(q))            ∂L/∂r = scale·h
    ∂L/∂scale = Σ r·h,   ∂L/∂weight = Σ ∂L/∂normed·ŷ,   ∂L/∂bias = Σ ∂L/∂normed

A program takes some rows, of whichever samples, and holds whole rows: everything is read once and
written once. Of rows that are too wide for that (launch.WIDEST) a first kernel takes the two means,
and a program then takes a block of their columns. The sums over rows are partial sums of one
program each, added in a fixed order.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import gradients, launch
from ..arguments import check_residual_energy_layer_norm_backward
from .runtime import (
    column_sums,
    dense,
    on_device,
    run_by_row,
    run_over_rows,
    step,
    supported,
    vector,
)
from .tiles import residue_gradient, sum_gradient


@triton.jit
def means_kernel(
    grad_normed_ptr,  # [N, *, C]
    y_ptr,  # [N, *, C]
    weight_ptr,  # [C] or None
    mean_ptr,  # [N, *]
    rstd_ptr,  # [N, *]
    mean_g_ptr,  # [N, *]
    mean_gy_ptr,  # [N, *]
    size,
    width,
    COLUMNS: tl.constexpr,
):
    """mean(g) and mean(g·ŷ) of one row that is too wide to be held."""
    row = tl.program_id(0).to(tl.int64)
    mean = tl.load(mean_ptr + row)
    rstd = tl.load(rstd_ptr + row)
    total_g = tl.zeros((COLUMNS,), tl.float32)
    total_gy = tl.zeros((COLUMNS,), tl.float32)
    for start in range(0, width, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        inside = column < width
        g = tl.load(grad_normed_ptr + row * width + column, inside, other=0.0).to(tl.float32)
        y = tl.load(y_ptr + row * width + column, inside, other=0.0).to(tl.float32)
        if weight_ptr is not None:
            g *= tl.load(weight_ptr + column, inside, other=0.0).to(tl.float32)
        total_g += g
        total_gy += tl.where(inside, g * (y - mean) * rstd, 0.0)
    tl.store(mean_g_ptr + row, tl.sum(total_g) / width)
    tl.store(mean_gy_ptr + row, tl.sum(total_gy) / width)


@triton.jit
def backward_kernel(
    grad_y_ptr,  # [N, *, C] or None
    grad_normed_ptr,  # [N, *, C] or None
    grad_energy_ptr,  # [N] or None
    y_ptr,  # [N, *, C]
    r_ptr,  # [N, *, C] or None
    x_ptr,  # [N, *, C] or None
    weight_ptr,  # [C] or None
    mean_ptr,  # [N, *]
    rstd_ptr,  # [N, *]
    scale_ptr,  # [C] or None
    keep_ptr,  # [N] or None
    grad_x_ptr,  # [N, *, C] or None
    grad_r_ptr,  # [N, *, C] or None
    grad_weight_ptr,  # [splits, C] or None
    grad_bias_ptr,  # [splits, C] or None
    grad_scale_ptr,  # [splits, C] or None
    mean_g_ptr,  # [N, *], of wide rows, or None
    mean_gy_ptr,  # [N, *], of wide rows, or None
    grad_energy_step,
    keep_step,
    rows,
    size,
    width,
    blocks,
    share,
    P: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """One share of the rows, or of one block of their columns."""
    RECOVERED: tl.constexpr = x_ptr is not None
    program = tl.program_id(0).to(tl.int64)
    part = program // blocks
    column = (program - part * blocks) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    inside = column < width
    weight_total = tl.zeros((ROWS, COLUMNS), tl.float32)
    bias_total = tl.zeros((ROWS, COLUMNS), tl.float32)
    scale_total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, share, ROWS):
        row = part * share + start + tl.arange(0, ROWS)[:, None]
        exists = row < rows
        mask = exists & inside
        offset = row * width + column
        h = sum_gradient(grad_y_ptr, None, offset, mask)
        if grad_normed_ptr is not None:
            g = tl.load(grad_normed_ptr + offset, mask, other=0.0).to(tl.float32)
            y = tl.load(y_ptr + offset, mask, other=0.0).to(tl.float32)
            mean = tl.load(mean_ptr + row, exists, other=0.0)
            rstd = tl.load(rstd_ptr + row, exists, other=0.0)
            y_hat = tl.where(mask, (y - mean) * rstd, 0.0)
            if grad_weight_ptr is not None:
                weight_total += g * y_hat
            if grad_bias_ptr is not None:
                bias_total += g
            if weight_ptr is not None:
                g *= tl.load(weight_ptr + column, inside, other=0.0).to(tl.float32)
            if mean_g_ptr is not None:
                mean_g = tl.load(mean_g_ptr + row, exists, other=0.0)
                mean_gy = tl.load(mean_gy_ptr + row, exists, other=0.0)
            else:
                mean_g = tl.sum(g, 1, keep_dims=True) / width
                mean_gy = tl.sum(g * y_hat, 1, keep_dims=True) / width
            h += (g - mean_g - y_hat * mean_gy) * rstd
        if grad_x_ptr is not None:
            tl.store(grad_x_ptr + offset, h, mask)
        if grad_r_ptr is not None or grad_scale_ptr is not None:
            q = h  # read by nothing where neither follows
            if scale_ptr is not None:
                scale = tl.load(scale_ptr + column, inside, other=0.0).to(tl.float32)
            if RECOVERED:
                q = tl.load(y_ptr + offset, mask, other=0.0).to(tl.float32)
                q -= tl.load(x_ptr + offset, mask, other=0.0).to(tl.float32)
            if r_ptr is not None:
                r = tl.load(r_ptr + offset, mask, other=0.0).to(tl.float32)
                if not RECOVERED:
                    q = r
                    if scale_ptr is not None:
                        q = r * scale
            h = residue_gradient(
                h,
                q,
                grad_energy_ptr,
                keep_ptr,
                row // size,
                grad_energy_step,
                keep_step,
                exists,
                P,
                RECOVERED,
            )
            if grad_scale_ptr is not None:
                scale_total += tl.where(mask, r * h, 0.0)
            if grad_r_ptr is not None:
                if scale_ptr is not None:
                    h *= scale
                tl.store(grad_r_ptr + offset, h, mask)
    place = part * width + column
    if grad_weight_ptr is not None:
        tl.store(grad_weight_ptr + place, tl.sum(weight_total, 0, keep_dims=True), inside)
    if grad_bias_ptr is not None:
        tl.store(grad_bias_ptr + place, tl.sum(bias_total, 0, keep_dims=True), inside)
    if grad_scale_ptr is not None:
        tl.store(grad_scale_ptr + place, tl.sum(scale_total, 0, keep_dims=True), inside)


def backward(
    grad_y: Tensor | None,  # [N, *, C]
    grad_normed: Tensor | None,  # [N, *, C]
    grad_energy: Tensor | None,  # [N]
    y: Tensor,  # [N, *, C]
    r: Tensor | None,  # [N, *, C], for the energy and for scale
    x: Tensor | None,  # [N, *, C], in place of r
    weight: Tensor | None,  # [C]
    bias: Tensor | None,  # [C]
    mean: Tensor,  # [N, *]
    rstd: Tensor,  # [N, *]
    scale: Tensor | None,  # [C]
    keep: Tensor | None,  # [N]
    p: float,
    x_dtype: torch.dtype,
    r_dtype: torch.dtype,
    output_mask: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # [N, *, C] twice, [C] three times
    """`trgl::residual_energy_layer_norm_backward`."""
    check_residual_energy_layer_norm_backward(
        grad_y,
        grad_normed,
        grad_energy,
        y,
        r,
        x,
        weight,
        bias,
        mean,
        rstd,
        scale,
        keep,
        output_mask,
    )
    v = launch.view(y.shape, False, y.dim() - 1)
    if not supported(v, y.dtype):
        return gradients.residual_energy_layer_norm_backward(
            grad_y,
            grad_normed,
            grad_energy,
            y,
            r,
            x,
            weight,
            bias,
            mean,
            rstd,
            scale,
            keep,
            p,
            x_dtype,
            r_dtype,
            output_mask,
        )
    grad_x, grad_r = (
        y.new_empty(y.shape if wanted else 0, dtype=dtype)
        for wanted, dtype in zip(output_mask, (x_dtype, r_dtype), strict=False)
    )
    settings = launch.by_row(v, 1)
    sums = [
        like.new_empty(like.shape) if wanted and like is not None else None
        for like, wanted in zip((weight, bias, scale), output_mask[2:], strict=True)
    ]
    parts = sums
    if settings.splits > 1:
        shape = (settings.splits, v.channels)
        parts = [None if like is None else y.new_empty(shape, dtype=torch.float32) for like in sums]
    layout = torch.contiguous_format
    y, grad_normed, gamma = y.contiguous(), dense(grad_normed, layout), vector(weight)
    mean, rstd = mean.contiguous(), rstd.contiguous()
    means: tuple[Tensor | None, Tensor | None] = (None, None)
    with on_device(y):
        if settings.blocks > 1 and grad_normed is not None:
            means = torch.empty_like(mean), torch.empty_like(mean)
            run_over_rows(means_kernel, v, settings, grad_normed, y, gamma, mean, rstd, *means)
        run_by_row(
            backward_kernel,
            1,
            settings,
            dense(grad_y, layout),
            grad_normed,
            grad_energy,
            y,
            dense(r, layout),
            dense(x, layout),
            gamma,
            mean,
            rstd,
            vector(scale),
            keep,
            grad_x if output_mask[0] else None,
            grad_r if output_mask[1] else None,
            *parts,
            *means,
            step(grad_energy),
            step(keep),
            v.samples * v.outer,
            v.outer,
            v.channels,
            P=p,
        )
        if parts is not sums:
            add_parts(parts, sums)
    first, second, third = (y.new_empty(0) if total is None else total for total in sums)
    return grad_x, grad_r, first, second, third


def add_parts(
    parts: list[Tensor | None],  # [splits, C] each
    sums: list[Tensor | None],  # [C] each
) -> None:
    """Adds up partial sums, two matrices in one launch."""
    pairs = [(a, b) for a, b in zip(parts, sums, strict=True) if a is not None and b is not None]
    for i in range(0, len(pairs), 2):
        column_sums(*pairs[i], *(pairs[i + 1] if i + 1 < len(pairs) else ()))
