"""Triton kernels of `displacement_energy`.

    q = y − x,   e_i = Σ_d |q_id|^p,   ∂L/∂y = ∂L/∂e_i · p |q|^(p-1) sign(q) = −∂L/∂x

x and y are read once each way, and q is never stored. Energies are partial sums of one program
each, added in a fixed order by a second kernel where there is more than one.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import gradients, launch, reference
from ..arguments import check_displacement_energy, check_displacement_energy_backward
from ..reference import memory_format
from .runtime import column_sums, energy_parts, on_device, run_flat, step, supported
from .tiles import energy_of, energy_slope, flat_program


@triton.jit
def displacement(
    x_ptr,  # [N, C, *]
    y_ptr,  # [N, C, *]
    offset,
    mask,
):
    """q = y − x, 0 beyond the mask."""
    x = tl.load(x_ptr + offset, mask, other=0.0).to(tl.float32)
    return tl.load(y_ptr + offset, mask, other=0.0).to(tl.float32) - x


@triton.jit
def forward_kernel(
    x_ptr,  # [N, C, *]
    y_ptr,  # [N, C, *]
    energy_ptr,  # [chunks, N]
    samples,
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
    """One chunk of one sample: its share of the energy."""
    sample, part, first = flat_program(chunks, chunk)
    base = (sample * groups + first) * VECTOR
    column = tl.arange(0, VECTOR)[None, :]
    total = tl.zeros((ROWS, VECTOR), tl.float32)
    for start in range(0, chunk, ROWS):
        row = start + tl.arange(0, ROWS)[:, None]
        q = displacement(x_ptr, y_ptr, base + row * VECTOR + column, first + row < groups)
        total += energy_of(q, P)
    tl.store(energy_ptr + part * samples + sample, tl.sum(total))


@triton.jit
def backward_kernel(
    grad_energy_ptr,  # [N]
    x_ptr,  # [N, C, *]
    y_ptr,  # [N, C, *]
    grad_x_ptr,  # [N, C, *] or None
    grad_y_ptr,  # [N, C, *] or None
    grad_energy_step,
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
    """One chunk of one sample: the gradients of x and y."""
    sample, _, first = flat_program(chunks, chunk)
    base = (sample * groups + first) * VECTOR
    column = tl.arange(0, VECTOR)[None, :]
    weight = tl.load(grad_energy_ptr + sample * grad_energy_step).to(tl.float32)
    for start in range(0, chunk, ROWS):
        row = start + tl.arange(0, ROWS)[:, None]
        mask = first + row < groups
        offset = base + row * VECTOR + column
        slope = weight * energy_slope(displacement(x_ptr, y_ptr, offset, mask), P)
        if grad_x_ptr is not None:
            tl.store(grad_x_ptr + offset, -slope, mask)
        if grad_y_ptr is not None:
            tl.store(grad_y_ptr + offset, slope, mask)


def forward(
    x: Tensor,  # [N, C, *]
    y: Tensor,  # [N, C, *]
    p: float,
) -> Tensor:  # [N]
    """`trgl::displacement_energy`."""
    check_displacement_energy(x, y, p)
    layout = memory_format(x)
    v = launch.view(x.shape, layout != torch.contiguous_format, None)
    if not supported(v, x.dtype, y.dtype):
        return reference.displacement_energy(x, y, p=p)
    x, y = x.contiguous(memory_format=layout), y.contiguous(memory_format=layout)
    settings = launch.flat(v, max(x.element_size(), y.element_size()))
    energy = x.new_empty(v.samples, dtype=torch.float32)
    parts = energy_parts(energy, settings.chunks)
    with on_device(x):
        run_flat(forward_kernel, v, settings, x, y, parts, v.samples, P=p)
        if parts is not energy:
            column_sums(parts, energy)
    return energy


def backward(
    grad_energy: Tensor,  # [N]
    x: Tensor,  # [N, C, *]
    y: Tensor,  # [N, C, *]
    p: float,
    output_mask: list[bool],
) -> tuple[Tensor, Tensor]:  # [N, C, *], [N, C, *]
    """`trgl::displacement_energy_backward`."""
    check_displacement_energy_backward(grad_energy, x, y)
    layout = memory_format(x)
    v = launch.view(x.shape, layout != torch.contiguous_format, None)
    if not supported(v, x.dtype, y.dtype):
        return gradients.displacement_energy_backward(grad_energy, x, y, p, output_mask)
    x, y = x.contiguous(memory_format=layout), y.contiguous(memory_format=layout)
    grad_x = torch.empty_like(x) if output_mask[0] else x.new_empty(0)
    grad_y = torch.empty_like(y) if output_mask[1] else x.new_empty(0)
    settings = launch.flat(v, max(x.element_size(), y.element_size()))
    with on_device(x):
        run_flat(
            backward_kernel,
            v,
            settings,
            grad_energy,
            x,
            y,
            grad_x if output_mask[0] else None,
            grad_y if output_mask[1] else None,
            step(grad_energy),
            P=p,
        )
    return grad_x, grad_y
