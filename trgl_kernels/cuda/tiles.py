"""What the Triton kernels share: the energy's power, ReLU's mask, and the two walks of `launch.py`.

A tile is two-dimensional, [ROWS, COLUMNS]; a row is a group of neighbours (see `launch.View`), so
that channel indices cost one division per group. Samples and offsets of rows are 64-bit; positions
inside a program's share are 32-bit.
"""

import triton
import triton.language as tl
from triton.language.extra import libdevice

INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))


@triton.jit
def power(a, P: tl.constexpr):
    """a^P for a >= 0, within two units in the last place."""
    if INTERPRETED:
        # the interpreter has no libdevice; a tiny number for 0 keeps the logarithm finite
        wide = tl.where(a == 0, 1e-300, a.to(tl.float64))
        result = tl.exp2(tl.log2(wide) * P).to(tl.float32)
    else:
        result = libdevice.pow(a, P)
    return result


@triton.jit
def energy_of(q, P: tl.constexpr):
    """|q|^P."""
    if P == 2.0:
        result = q * q
    elif P == 1.0:
        result = tl.abs(q)
    else:
        result = power(tl.abs(q), P)
    return result


@triton.jit
def energy_slope(q, P: tl.constexpr):
    """The derivative of |q|^P, which is 0 at q = 0."""
    if P == 2.0:
        result = 2.0 * q
    elif P == 1.0:
        result = tl.where(q > 0, 1.0, tl.where(q < 0, -1.0, 0.0))
    else:
        sign = tl.where(q > 0, 1.0, tl.where(q < 0, -1.0, 0.0))
        result = P * power(tl.abs(q), P - 1.0) * sign
    return result


@triton.jit
def relu(u):
    """max(u, 0) that keeps NaN."""
    return tl.where(u <= 0, 0.0, u)


@triton.jit
def normalized(centred, slope, bias):
    """γ·rstd·(z − mean) + β, with the same rounding wherever its sign decides."""
    return tl.fma(centred, slope, bias)


@triton.jit
def slope_and_bias(
    rstd,
    weight_ptr,  # [C] or None
    bias_ptr,  # [C] or None
    channel,
    mask,
):
    """γ·rstd and β, as `normalized` takes them."""
    bias = tl.zeros(rstd.shape, tl.float32)
    if weight_ptr is not None:
        rstd *= tl.load(weight_ptr + channel, mask, other=0.0).to(tl.float32)
    if bias_ptr is not None:
        bias = tl.load(bias_ptr + channel, mask, other=0.0).to(tl.float32)
    return rstd, bias


@triton.jit
def sum_gradient(
    grad_y_ptr,  # [N, C, *] or None
    y_ptr,  # [N, C, *] or None
    offset,
    mask,
):
    """Gradient at u = x + q: the output's, where its ReLU (y given) let it pass. NaN passes."""
    if grad_y_ptr is None:
        g = tl.zeros(offset.shape, tl.float32)
    else:
        g = tl.load(grad_y_ptr + offset, mask, other=0.0).to(tl.float32)
        if y_ptr is not None:
            y = tl.load(y_ptr + offset, mask, other=0.0).to(tl.float32)
            g = tl.where(y <= 0, 0.0, g)
    return g


@triton.jit
def residue_gradient(
    g,
    q,
    grad_energy_ptr,  # [N] or None
    keep_ptr,  # [N] or None
    sample,
    grad_energy_step,
    keep_step,
    mask,
    P: tl.constexpr,
    KEPT: tl.constexpr = False,
):
    """Gradient at q, which enters the sum as keep·q, from the gradient g at the sum.

    KEPT says that the q given is keep·q already.
    """
    if keep_ptr is not None:
        keep = tl.load(keep_ptr + sample * keep_step, mask).to(tl.float32)
        if not KEPT:
            q *= keep
    if grad_energy_ptr is not None:
        grad_energy = tl.load(grad_energy_ptr + sample * grad_energy_step, mask).to(tl.float32)
        g += grad_energy * energy_slope(q, P)
    if keep_ptr is not None:
        g *= keep
    return g


@triton.jit
def flat_program(chunks, chunk):
    """Sample, chunk and first group of this program of a flat walk."""
    program = tl.program_id(0).to(tl.int64)
    sample = program // chunks
    part = program - sample * chunks
    return sample, part, part * chunk


@triton.jit
def flat_channel(
    first, row, column, plane, width, VECTOR: tl.constexpr, LAST: tl.constexpr, WRAP: tl.constexpr
):
    """Channel of the groups first + row of one sample: [ROWS, 1], or [ROWS, VECTOR] with LAST."""
    index = first // plane
    inside = (first - index * plane).to(tl.int32)
    if WRAP:
        channel = ((index % width).to(tl.int32) + (inside + row) // plane) % width
    else:
        channel = index.to(tl.int32) + (inside + row) // plane
    if LAST:
        channel = channel * VECTOR + column
    return channel


@triton.jit
def channel_program(blocks, width, COLUMNS: tl.constexpr, VECTOR: tl.constexpr, LAST: tl.constexpr):
    """Split of this program by channel, and its channels: [1, 1], or [1, COLUMNS] with LAST."""
    program = tl.program_id(0).to(tl.int64)
    part = program // blocks
    block = program - part * blocks
    if LAST:
        channels = width * VECTOR
        channel = block * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    else:
        channels = width
        channel = block + tl.zeros((1, 1), tl.int64)
    return part, channel, channels


@triton.jit
def channel_rows(
    first, row, groups, plane, outer, channel, channels, COLUMNS: tl.constexpr, LAST: tl.constexpr
):
    """Offsets, mask and samples of the rows first + row of some channels."""
    above = first // plane
    inside = (first - above * plane).to(tl.int32) + row
    below = inside // plane
    line = above + below
    if LAST:
        offset = line * channels + channel
    else:
        group = (line * channels + channel) * plane + (inside - below * plane)
        offset = group * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    mask = (first + row < groups) & (channel < channels)
    start = above // outer
    sample = start + ((above - start * outer).to(tl.int32) + below) // outer
    return offset, mask, sample


@triton.jit
def over_rows(values, LAST: tl.constexpr):
    """Sum over everything but the channels: [1, 1], or [1, COLUMNS] with LAST."""
    total = tl.sum(values, 0, keep_dims=True)
    if not LAST:
        total = tl.sum(total, 1, keep_dims=True)
    return total


@triton.jit
def column_sums_kernel(
    first_ptr,  # [R, W]
    first_sum_ptr,  # [W]
    second_ptr,  # [R, W] or None
    second_sum_ptr,  # [W] or None
    rows,
    columns,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Sums one or two matrices of partial results [rows, columns] over their rows, in order."""
    row = tl.arange(0, ROWS)[:, None]
    column = tl.program_id(0).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    inside = column < columns
    mask = (row < rows) & inside
    offset = row * columns + column
    total = tl.sum(tl.load(first_ptr + offset, mask, other=0.0), 0, keep_dims=True)
    tl.store(first_sum_ptr + column, total, inside)
    if second_ptr is not None:
        total = tl.sum(tl.load(second_ptr + offset, mask, other=0.0), 0, keep_dims=True)
        tl.store(second_sum_ptr + column, total, inside)
