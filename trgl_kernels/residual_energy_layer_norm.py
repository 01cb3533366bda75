"""`residual_energy_layer_norm`: a residual addition, its energy, and the next LayerNorm."""

import torch
from torch import Tensor

from .call import call


def residual_energy_layer_norm(
    x: Tensor,  # [N, *, C]
    r: Tensor,  # [N, *, C]
    weight: Tensor | None,  # [C]
    bias: Tensor | None,  # [C]
    *,
    eps: float = 1e-5,
    scale: Tensor | None = None,  # [C]
    keep: Tensor | None = None,  # [N]
    p: float = 2.0,
) -> tuple[Tensor, Tensor, Tensor]:  # [N, *, C], [N, *, C], [N]
    """Adds a residue to the stream, takes its energy, and normalizes the sum for the next sublayer.

        q = keep·scale·r,   y = x + q,   e_i = Σ_d |q_id|^p
        normed = weight·(y − mean(y)) / √(var(y) + eps) + bias, over the last dimension

    A row is what the last dimension holds: a token. Saved for backward are `r`, the output `y`, and
    the mean and the reciprocal deviation of each row. Inputs of different types are promoted as
    PyTorch promotes sums; the statistics are those of `y` as it is stored, in float32 (float64 for
    float64), and so is the energy.

    Args:
        x: the stream, [N, *, C] with C last ([N, T, C] tokens, [N, H, W, C] maps), float32,
            float64, bfloat16 or float16, any layout.
        r: the residue, of the same shape.
        weight, bias: of the normalization, [C], any floating-point type, or None.
        eps: added to the variance, eps ≥ 0.
        scale: one factor per feature (LayerScale), [C], or with leading dimensions of size 1.
        keep: one factor per sample, [N], 0 or 1/keep_prob (DropPath). Gets no gradient.
        p: exponent of the energy, p ≥ 1.

    Returns:
        y and normed, [N, *, C], contiguous, of the promoted type; the energy, [N], float32 (float64
        for float64 inputs).

    Raises:
        ValueError: shapes, types or options outside these ranges.

    Source: TRGL (Karkar et al., NeurIPS 2023), equations 9 and 10.
    """
    y, normed, energy, _, _ = call(
        torch.ops.trgl.residual_energy_layer_norm.default,
        x,
        r,
        weight,
        bias,
        eps,
        scale,
        keep,
        p,
        True,
        False,
    )
    return y, normed, energy
