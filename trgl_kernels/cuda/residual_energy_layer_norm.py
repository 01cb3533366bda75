"""Triton kernel of `residual_energy_layer_norm`, forward.

    q = keep·scale·r,   y = x + q,   e_i = Σ_d |q_id|^p
    normed = weight·(y − mean)·rstd + bias, with the mean and rstd of each row of y

A program takes some rows of one sample and holds whole rows: everything is read once and written
once. Energies are partial sums of one program each, added in a fixed order by a second kernel where
a sample has more than one.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import launch, reference
from ..arguments import check_residual_energy_layer_norm
from .runtime import column_sums, energy_parts, on_device, run_by_row, step, supported, vector
from .tiles import energy_of


@triton.jit
def forward_kernel(
    x_ptr,
    r_ptr,
    weight_ptr,
    bias_ptr,
    scale_ptr,
    keep_ptr,
    y_ptr,
    normed_ptr,
    energy_ptr,  # [splits, N]
    mean_ptr,
    rstd_ptr,
    eps,
    keep_step,
    samples,
    size,
    width,
    splits,
    share,
    P: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """One share of the rows of one sample."""
    program = tl.program_id(0).to(tl.int64)
    sample = program // splits
    part = program - sample * splits
    column = tl.arange(0, COLUMNS)[None, :]
    inside = column < width
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    if keep_ptr is not None:
        keep = tl.load(keep_ptr + sample * keep_step).to(tl.float32)
    for start in range(0, share, ROWS):
        row = part * share + start + tl.arange(0, ROWS)[:, None]
        exists = row < size
        mask = exists & inside
        row += sample * size
        offset = row * width + column
        q = tl.load(r_ptr + offset, mask, other=0.0).to(tl.float32)
        if scale_ptr is not None:
            q *= tl.load(scale_ptr + column, inside, other=0.0).to(tl.float32)
        if keep_ptr is not None:
            q *= keep
        if energy_ptr is not None:
            total += tl.where(mask, energy_of(q, P), 0.0)
        u = tl.load(x_ptr + offset, mask, other=0.0).to(tl.float32) + q
        # from here on as it is stored, since that is what backward reads
        y = u.to(y_ptr.dtype.element_ty)
        tl.store(y_ptr + offset, y, mask)
        y = y.to(tl.float32)
        mean = tl.sum(y, 1, keep_dims=True) / width
        # the second sum takes back what the first lost where the mean is far from 0
        mean += tl.sum(tl.where(inside, y - mean, 0.0), 1, keep_dims=True) / width
        centered = tl.where(inside, y - mean, 0.0)
        var = tl.sum(centered * centered, 1, keep_dims=True) / width
        var = tl.where(exists, var, 1.0)  # with eps = 0 too, a row that is not there divides by 1
        rstd = tl.div_rn(1.0, tl.sqrt_rn(var + eps))
        tl.store(mean_ptr + row, mean, exists)
        tl.store(rstd_ptr + row, rstd, exists)
        normed = centered * rstd
        if weight_ptr is not None:
            normed *= tl.load(weight_ptr + column, inside, other=0.0).to(tl.float32)
        if bias_ptr is not None:
            normed += tl.load(bias_ptr + column, inside, other=0.0).to(tl.float32)
        tl.store(normed_ptr + offset, normed, mask)
    if energy_ptr is not None:
        tl.store(energy_ptr + part * samples + sample, tl.sum(total))


def forward(
    x: Tensor,  # [N, *, C]
    r: Tensor,  # [N, *, C]
    weight: Tensor | None,  # [C]
    bias: Tensor | None,  # [C]
    eps: float,
    scale: Tensor | None,  # [C]
    keep: Tensor | None,  # [N]
    p: float,
    with_energy: bool,
    _recover: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # [N, *, C] twice, [N], [N, *] twice
    """`trgl::residual_energy_layer_norm`."""
    check_residual_energy_layer_norm(x, r, weight, bias, eps, scale, keep, p)
    v = launch.view(x.shape, False, x.dim() - 1)
    if not (supported(v, x.dtype, r.dtype) and v.channels <= launch.WIDEST):
        return reference.residual_energy_layer_norm(
            x, r, weight, bias, eps=eps, scale=scale, keep=keep, p=p, with_energy=with_energy
        )
    x, r = x.contiguous(), r.contiguous()
    y = torch.empty_like(x, dtype=torch.promote_types(x.dtype, r.dtype))
    normed = torch.empty_like(y)
    mean, rstd = (x.new_empty(x.shape[:-1], dtype=torch.float32) for _ in range(2))
    settings = launch.by_row(v, v.samples)
    energy = x.new_empty(v.samples if with_energy else 0, dtype=torch.float32)
    parts = energy_parts(energy, settings.splits)
    with on_device(x):
        run_by_row(
            forward_kernel,
            v.samples,
            settings,
            x,
            r,
            vector(weight),
            vector(bias),
            vector(scale),
            keep,
            y,
            normed,
            parts if with_energy else None,
            mean,
            rstd,
            eps,
            step(keep),
            v.samples,
            v.outer,
            v.channels,
            settings.splits,
            P=p,
        )
        if parts is not energy:
            column_sums(parts, energy)
    return y, normed, energy, mean, rstd
