"""Triton kernel of `batch_norm_residual_energy`.

    ẑ = (z − mean)·rstd,   q = keep·(γ·ẑ + β),   y = act(x + q),   e_i = Σ_d |q_id|^p

z is read for the statistics (statistics.py), then z and x once; q is never stored. Energies are
partial sums of one program each, added in a fixed order by a second kernel where there is more
than one. The gradients are in batch_norm_residual_energy_backward.py.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import launch, reference
from ..arguments import check_batch_norm_residual_energy
from ..reference import memory_format
from .runtime import column_sums, on_device, run_flat, step, supported, vector
from .statistics import batch_statistics, running_statistics
from .tiles import energy_of, flat_channel, flat_program, relu


@triton.jit
def affine(
    z_hat,
    weight_ptr,  # [C] or None
    bias_ptr,  # [C] or None
    channel,
    mask,
):
    """γ·ẑ + β."""
    if weight_ptr is not None:
        z_hat *= tl.load(weight_ptr + channel, mask, other=0.0).to(tl.float32)
    if bias_ptr is not None:
        z_hat += tl.load(bias_ptr + channel, mask, other=0.0).to(tl.float32)
    return z_hat


@triton.jit
def forward_kernel(
    z_ptr,  # [N, C, *]
    x_ptr,  # [N, C, *]
    weight_ptr,  # [C] or None
    bias_ptr,  # [C] or None
    mean_ptr,  # [C]
    rstd_ptr,  # [C]
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
        offset = base + row * VECTOR + column
        channel = flat_channel(first, row, column, plane, width, VECTOR, LAST, WRAP)
        z = tl.load(z_ptr + offset, mask, other=0.0).to(tl.float32)
        x = tl.load(x_ptr + offset, mask, other=0.0).to(tl.float32)
        mean = tl.load(mean_ptr + channel, mask, other=0.0)
        rstd = tl.load(rstd_ptr + channel, mask, other=0.0)
        q = affine((z - mean) * rstd, weight_ptr, bias_ptr, channel, mask)
        if keep_ptr is not None:
            q *= keep
        u = x + q
        if RELU:
            u = relu(u)
        tl.store(y_ptr + offset, u, mask)
        if energy_ptr is not None:
            total += tl.where(mask, energy_of(q, P), 0.0)
    if energy_ptr is not None:
        tl.store(energy_ptr + part * samples + sample, tl.sum(total))


def forward(
    z: Tensor,  # [N, C, *]
    x: Tensor,  # [N, C, *]
    weight: Tensor | None,  # [C]
    bias: Tensor | None,  # [C]
    running_mean: Tensor | None,  # [C]
    running_var: Tensor | None,  # [C]
    training: bool,
    momentum: float,
    eps: float,
    activation: str,
    keep: Tensor | None,  # [N]
    p: float,
    with_energy: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # [N, C, *], [N], [C], [C]
    """`trgl::batch_norm_residual_energy`."""
    check_batch_norm_residual_energy(
        z, x, weight, bias, running_mean, running_var, training, momentum, eps, activation, keep, p
    )
    layout = memory_format(z)
    v = launch.view(z.shape, layout != torch.contiguous_format, 1)
    if not supported(v, z.dtype, x.dtype):
        return reference.batch_norm_residual_energy(
            z,
            x,
            weight,
            bias,
            running_mean,
            running_var,
            training=training,
            momentum=momentum,
            eps=eps,
            activation=activation,
            keep=keep,
            p=p,
            with_energy=with_energy,
        )
    z, x = z.contiguous(memory_format=layout), x.contiguous(memory_format=layout)
    y = torch.empty_like(z, dtype=torch.promote_types(z.dtype, x.dtype))
    settings = launch.flat(v, y.element_size())
    energy = z.new_empty(v.samples if with_energy else 0, dtype=torch.float32)
    parts = energy
    if with_energy and settings.chunks > 1:
        parts = z.new_empty((settings.chunks, v.samples), dtype=torch.float32)
    with on_device(z):
        if training:
            mean, rstd = batch_statistics(z, v, running_mean, running_var, momentum, eps)
        else:
            assert running_mean is not None
            assert running_var is not None
            mean, rstd = running_statistics(running_mean, running_var, eps)
        run_flat(
            forward_kernel,
            v,
            settings,
            z,
            x,
            vector(weight),
            vector(bias),
            mean,
            rstd,
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
    return y, energy, mean, rstd
