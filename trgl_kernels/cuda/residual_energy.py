"""Triton kernels of `residual_energy`.

    q = keep·scale·r,   y = act(x + q),   e_i = Σ_d |q_id|^p

    g = ∂L/∂y where y > 0 (everywhere without a ReLU)       ∂L/∂x = g
    h = keep·(g + ∂L/∂e_i · p |q|^(p-1) sign(q))            ∂L/∂r = scale·h
                                                            ∂L/∂scale_c = Σ_{n,s} r·h

Where the output was kept instead of r, q = y − x.

Everything is read once and written once. Energies, and the gradient of `scale`, are partial sums
of one program each, added in a fixed order by a second kernel where there is more than one.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import gradients, launch, reference
from ..arguments import check_residual_energy, check_residual_energy_backward
from ..checks import scale_dim
from ..reference import memory_format
from .runtime import (
    column_sums,
    dense,
    energy_parts,
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
    energy_of,
    flat_channel,
    flat_program,
    over_rows,
    relu,
    residue_gradient,
    sum_gradient,
)


@triton.jit
def forward_kernel(
    x_ptr,  # [N, C, *]
    r_ptr,  # [N, C, *]
    scale_ptr,  # [C] or None
    keep_ptr,  # [N] or None
    y_ptr,  # [N, C, *]
    energy_ptr,  # [chunks, N] or None
    keep_step,
    samples,
    groups,
    plane,
    width,
    chunks,
    chunk,
    RELU: tl.constexpr,
    P: tl.constexpr,
    LAST: tl.constexpr,
    WRAP: tl.constexpr,
    ROWS: tl.constexpr,
    VECTOR: tl.constexpr,
):
    """One chunk of one sample: y, and the chunk's share of the energy."""
    sample, part, first = flat_program(chunks, chunk)
    base = (sample * groups + first) * VECTOR
    column = tl.arange(0, VECTOR)[None, :]
    total = tl.zeros((ROWS, VECTOR), tl.float32)
    if keep_ptr is not None:
        keep = tl.load(keep_ptr + sample * keep_step).to(tl.float32)
    for start in range(0, chunk, ROWS):
        row = start + tl.arange(0, ROWS)[:, None]
        mask = first + row < groups
        offset = row * VECTOR + column
        q = tl.load(r_ptr + base + offset, mask, other=0.0).to(tl.float32)
        if scale_ptr is not None:
            channel = flat_channel(first, row, column, plane, width, VECTOR, LAST, WRAP)
            q *= tl.load(scale_ptr + channel, mask, other=0.0).to(tl.float32)
        if keep_ptr is not None:
            q *= keep
        u = tl.load(x_ptr + base + offset, mask, other=0.0).to(tl.float32) + q
        if RELU:
            u = relu(u)
        tl.store(y_ptr + base + offset, u, mask)
        if energy_ptr is not None:
            total += tl.where(mask, energy_of(q, P), 0.0)
    if energy_ptr is not None:
        tl.store(energy_ptr + part * samples + sample, tl.sum(total))


@triton.jit
def backward_kernel(
    x_ptr,  # [N, C, *] or None: where it is given, r is y
    grad_y_ptr,  # [N, C, *] or None
    grad_energy_ptr,  # [N] or None
    y_ptr,  # [N, C, *] or None
    r_ptr,  # [N, C, *]
    scale_ptr,  # [C] or None
    keep_ptr,  # [N] or None
    grad_x_ptr,  # [N, C, *] or None
    grad_r_ptr,  # [N, C, *] or None
    grad_energy_step,
    keep_step,
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
    """One chunk of one sample: the gradients of x and r."""
    RECOVERED: tl.constexpr = x_ptr is not None
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
        if grad_r_ptr is not None:
            q = tl.load(r_ptr + offset, mask, other=0.0).to(tl.float32)
            if scale_ptr is not None:
                channel = flat_channel(first, row, column, plane, width, VECTOR, LAST, WRAP)
                scale = tl.load(scale_ptr + channel, mask, other=0.0).to(tl.float32)
            if RECOVERED:
                q -= tl.load(x_ptr + offset, mask, other=0.0).to(tl.float32)
            elif scale_ptr is not None:
                q *= scale
            h = residue_gradient(
                h, q, grad_energy_ptr, keep_ptr, sample, grad_energy_step, keep_step, None, P,
                RECOVERED,
            )  # fmt: skip
            if scale_ptr is not None:
                h *= scale
            tl.store(grad_r_ptr + offset, h, mask)


@triton.jit
def backward_with_scale_kernel(
    grad_y_ptr,  # [N, C, *] or None
    grad_energy_ptr,  # [N] or None
    y_ptr,  # [N, C, *] or None
    r_ptr,  # [N, C, *]
    scale_ptr,  # [C]
    keep_ptr,  # [N] or None
    grad_x_ptr,  # [N, C, *] or None
    grad_r_ptr,  # [N, C, *] or None
    grad_scale_ptr,  # [splits, C]
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
    """One share of some channels: the gradients of x and r, and a part of that of scale."""
    part, channel, channels = channel_program(blocks, width, COLUMNS, VECTOR, LAST)
    first = part * share
    inside = channel < channels
    scale = tl.load(scale_ptr + channel, inside, other=0.0).to(tl.float32)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, share, ROWS):
        row = start + tl.arange(0, ROWS)[:, None]
        offset, mask, sample = channel_rows(
            first, row, groups, plane, outer, channel, channels, COLUMNS, LAST
        )
        h = sum_gradient(grad_y_ptr, y_ptr, offset, mask)
        if grad_x_ptr is not None:
            tl.store(grad_x_ptr + offset, h, mask)
        r = tl.load(r_ptr + offset, mask, other=0.0).to(tl.float32)
        one = first + row < groups
        h = residue_gradient(
            h, r * scale, grad_energy_ptr, keep_ptr, sample, grad_energy_step, keep_step, one, P
        )
        total += tl.where(mask, r * h, 0.0)
        if grad_r_ptr is not None:
            tl.store(grad_r_ptr + offset, h * scale, mask)
    tl.store(grad_scale_ptr + part * channels + channel, over_rows(total, LAST), inside)


def forward(
    x: Tensor,  # [N, C, *]
    r: Tensor,  # [N, C, *]
    activation: str,
    scale: Tensor | None,  # [C]
    keep: Tensor | None,  # [N]
    p: float,
    with_energy: bool,
    _recover: bool,
) -> tuple[Tensor, Tensor]:  # [N, C, *], [N]
    """`trgl::residual_energy`."""
    check_residual_energy(x, r, activation, scale, keep, p)
    layout = memory_format(x)
    dim = None if scale is None else scale_dim("residual_energy", x, scale)
    v = launch.view(x.shape, layout != torch.contiguous_format, dim)
    if not supported(v, x.dtype, r.dtype):
        return reference.residual_energy(
            x, r, activation=activation, scale=scale, keep=keep, p=p, with_energy=with_energy
        )
    x, r = x.contiguous(memory_format=layout), r.contiguous(memory_format=layout)
    y = torch.empty_like(x, dtype=torch.promote_types(x.dtype, r.dtype))
    settings = launch.flat(v, y.element_size())
    energy = x.new_empty(v.samples if with_energy else 0, dtype=torch.float32)
    parts = energy_parts(energy, settings.chunks)
    with on_device(x):
        run_flat(
            forward_kernel,
            v,
            settings,
            x,
            r,
            vector(scale),
            keep,
            y,
            parts if with_energy else None,
            step(keep),
            v.samples,
            RELU=activation == "relu",
            P=p,
        )
        if parts is not energy:
            column_sums(parts, energy)
    return y, energy


def backward(
    grad_y: Tensor | None,  # [N, C, *]
    grad_energy: Tensor | None,  # [N]
    y: Tensor | None,  # [N, C, *], only with a ReLU
    r: Tensor,  # [N, C, *]; the output where x is given
    x: Tensor | None,  # [N, C, *], only where y − x stands for the residue
    scale: Tensor | None,  # [C]
    keep: Tensor | None,  # [N]
    activation: str,
    p: float,
    x_dtype: torch.dtype,
    output_mask: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:  # [N, C, *], [N, C, *], [C]
    """`trgl::residual_energy_backward`."""
    check_residual_energy_backward(grad_y, grad_energy, y, r, x, scale, keep, output_mask)
    layout = memory_format(r)
    dim = None if scale is None else scale_dim("residual_energy", r, scale)
    v = launch.view(r.shape, layout != torch.contiguous_format, dim)
    if not supported(v, r.dtype, x_dtype):
        return gradients.residual_energy_backward(
            grad_y, grad_energy, y, r, x, scale, keep, activation, p, x_dtype, output_mask
        )
    grad_y = dense(grad_y, layout)
    y = None if grad_y is None else dense(y, layout)
    r, x = r.contiguous(memory_format=layout), dense(x, layout)
    grad_x = torch.empty_like(r, dtype=x_dtype) if output_mask[0] else r.new_empty(0)
    grad_r = torch.empty_like(r) if output_mask[1] else r.new_empty(0)
    arguments = (
        grad_y,
        grad_energy,
        y,
        r,
        vector(scale),
        keep,
        grad_x if output_mask[0] else None,
        grad_r if output_mask[1] else None,
    )
    steps = (step(grad_energy), step(keep))
    itemsize = torch.promote_types(r.dtype, x_dtype).itemsize
    if scale is None or not output_mask[2]:
        if output_mask[0] or output_mask[1]:
            settings = launch.flat(v, itemsize)
            with on_device(r):
                run_flat(backward_kernel, v, settings, x, *arguments, *steps, P=p)
        return grad_x, grad_r, r.new_empty(0)
    grad_scale = torch.empty_like(scale, memory_format=torch.contiguous_format)
    shares = launch.by_channel(v, itemsize)
    parts = grad_scale
    if shares.splits > 1:
        parts = r.new_empty((shares.splits, v.channels), dtype=torch.float32)
    with on_device(r):
        run_by_channel(backward_with_scale_kernel, v, shares, *arguments, parts, *steps, P=p)
        if parts is not grad_scale:
            column_sums(parts, grad_scale)
    return grad_x, grad_r, grad_scale
