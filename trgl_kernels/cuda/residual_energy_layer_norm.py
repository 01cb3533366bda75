"""Triton kernel of `residual_energy_layer_norm`, forward.

    q = keep·scale·r,   y = x + q,   e_i = Σ_d |q_id|^p
    normed = weight·(y − mean)·rstd + bias, with the mean and rstd of each row of y

A program takes some rows of one sample and holds whole rows: everything is read once and written
once. Rows that are too wide for that (launch.WIDEST) are read in tiles by a first kernel, for mean
and rstd alone, and then again in blocks of columns. Energies are partial sums of one program each,
added in a fixed order by a last kernel where a sample has more than one.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import launch, reference
from ..arguments import check_residual_energy_layer_norm
from .runtime import (
    column_sums,
    energy_parts,
    on_device,
    run_by_row,
    run_over_rows,
    step,
    supported,
    vector,
)
from .tiles import energy_of


@triton.jit
def residue_and_sum(
    x_ptr,  # [N, *, C]
    r_ptr,  # [N, *, C]
    scale_ptr,  # [C] or None
    keep_ptr,  # [N] or None
    keep,
    y_type: tl.constexpr,
    offset,
    column,
    mask,
    inside,
):
    """q and y = x + q, the latter as it is stored, since that is what backward reads."""
    q = tl.load(r_ptr + offset, mask, other=0.0).to(tl.float32)
    if scale_ptr is not None:
        q *= tl.load(scale_ptr + column, inside, other=0.0).to(tl.float32)
    if keep_ptr is not None:
        q *= keep
    u = tl.load(x_ptr + offset, mask, other=0.0).to(tl.float32) + q
    return q, u.to(y_type)


@triton.jit
def statistics_kernel(
    x_ptr,  # [N, *, C]
    r_ptr,  # [N, *, C]
    scale_ptr,  # [C] or None
    keep_ptr,  # [N] or None
    y_ptr,  # [N, *, C], for its type
    mean_ptr,  # [N, *]
    rstd_ptr,  # [N, *]
    eps,
    keep_step,
    size,
    width,
    COLUMNS: tl.constexpr,
):
    """Mean and rstd of one row that is too wide to be held, in two walks through it."""
    row = tl.program_id(0).to(tl.int64)
    y_type: tl.constexpr = y_ptr.dtype.element_ty
    keep = 1.0
    if keep_ptr is not None:
        keep = tl.load(keep_ptr + row // size * keep_step).to(tl.float32)
    total = tl.zeros((COLUMNS,), tl.float32)
    for start in range(0, width, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        inside = column < width
        _, y = residue_and_sum(
            x_ptr, r_ptr, scale_ptr, keep_ptr, keep, y_type, row * width + column, column, inside,
            inside,
        )  # fmt: skip
        total += tl.where(inside, y.to(tl.float32), 0.0)
    near = tl.sum(total) / width
    distance = tl.zeros((COLUMNS,), tl.float32)
    squares = tl.zeros((COLUMNS,), tl.float32)
    for start in range(0, width, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        inside = column < width
        _, y = residue_and_sum(
            x_ptr, r_ptr, scale_ptr, keep_ptr, keep, y_type, row * width + column, column, inside,
            inside,
        )  # fmt: skip
        delta = tl.where(inside, y.to(tl.float32) - near, 0.0)
        distance += delta
        squares += delta * delta
    # what the first sum lost far from 0
    shift = tl.sum(distance) / width
    var = tl.sum(squares) / width - shift * shift
    tl.store(mean_ptr + row, near + shift)
    tl.store(rstd_ptr + row, tl.div_rn(1.0, tl.sqrt_rn(var + eps)))


@triton.jit
def forward_kernel(
    x_ptr,  # [N, *, C]
    r_ptr,  # [N, *, C]
    weight_ptr,  # [C] or None
    bias_ptr,  # [C] or None
    scale_ptr,  # [C] or None
    keep_ptr,  # [N] or None
    y_ptr,  # [N, *, C]
    normed_ptr,  # [N, *, C]
    energy_ptr,  # [splits · blocks, N] or None
    mean_ptr,  # [N, *]
    rstd_ptr,  # [N, *]
    eps,
    keep_step,
    samples,
    size,
    width,
    splits,
    blocks,
    share,
    P: tl.constexpr,
    WIDE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """One share of the rows of one sample; WIDE: of a block of columns, statistics given."""
    program = tl.program_id(0).to(tl.int64)
    block = program % blocks
    sample = program // blocks // splits
    part = program // blocks - sample * splits
    column = tl.arange(0, COLUMNS)[None, :]
    if WIDE:
        column += block * COLUMNS
    inside = column < width
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    keep = 1.0
    if keep_ptr is not None:
        keep = tl.load(keep_ptr + sample * keep_step).to(tl.float32)
    for start in range(0, share, ROWS):
        row = part * share + start + tl.arange(0, ROWS)[:, None]
        exists = row < size
        mask = exists & inside
        row += sample * size
        offset = row * width + column
        q, y = residue_and_sum(
            x_ptr, r_ptr, scale_ptr, keep_ptr, keep, y_ptr.dtype.element_ty, offset, column, mask,
            inside,
        )  # fmt: skip
        if energy_ptr is not None:
            total += tl.where(mask, energy_of(q, P), 0.0)
        tl.store(y_ptr + offset, y, mask)
        y = y.to(tl.float32)
        if WIDE:
            mean = tl.load(mean_ptr + row, exists, other=0.0)
            rstd = tl.load(rstd_ptr + row, exists, other=0.0)
            centered = y - mean
        else:
            mean = tl.sum(y, 1, keep_dims=True) / width
            # the second sum takes back what the first lost where the mean is far from 0
            mean += tl.sum(tl.where(inside, y - mean, 0.0), 1, keep_dims=True) / width
            centered = tl.where(inside, y - mean, 0.0)
            var = tl.sum(centered * centered, 1, keep_dims=True) / width
            var = tl.where(
                exists, var, 1.0
            )  # with eps = 0 too, a row that is not there divides by 1
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
        tl.store(energy_ptr + (part * blocks + block) * samples + sample, tl.sum(total))


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
    if not supported(v, x.dtype, r.dtype):
        return reference.residual_energy_layer_norm(
            x, r, weight, bias, eps=eps, scale=scale, keep=keep, p=p, with_energy=with_energy
        )
    x, r = x.contiguous(), r.contiguous()
    y = torch.empty_like(x, dtype=torch.promote_types(x.dtype, r.dtype))
    normed = torch.empty_like(y)
    mean, rstd = (x.new_empty(x.shape[:-1], dtype=torch.float32) for _ in range(2))
    settings = launch.by_row(v, v.samples)
    energy = x.new_empty(v.samples if with_energy else 0, dtype=torch.float32)
    parts = energy_parts(energy, settings.splits * settings.blocks)
    vectors = (vector(scale), keep)
    with on_device(x):
        if settings.blocks > 1:
            steps = (eps, step(keep))
            run_over_rows(statistics_kernel, v, settings, x, r, *vectors, y, mean, rstd, *steps)
        run_by_row(
            forward_kernel,
            v.samples,
            settings,
            x,
            r,
            vector(weight),
            vector(bias),
            *vectors,
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
            WIDE=settings.blocks > 1,
        )
        if parts is not energy:
            column_sums(parts, energy)
    return y, normed, energy, mean, rstd
