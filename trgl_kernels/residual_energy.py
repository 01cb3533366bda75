"""`residual_energy`: a residual addition and the energy of its residue in one pass."""

import torch
from torch import Tensor

from .call import call


def residual_energy(
    x: Tensor,  # [N, C, *]
    r: Tensor,  # [N, C, *]
    *,
    activation: str = "none",
    scale: Tensor | None = None,  # [C]
    keep: Tensor | None = None,  # [N]
    p: float = 2.0,
) -> tuple[Tensor, Tensor]:  # [N, C, *], [N]
    """Adds a residue to its shortcut and takes the residue's energy.

        q = keep·scale·r,   y = act(x + q),   e_i = Σ_d |q_id|^p

    Nothing is saved for backward beyond `r`, the options, and `y` where there is a ReLU. Inputs of
    different types are promoted as PyTorch promotes sums; energies are added up in float32 (float64
    for float64).

    Args:
        x: the shortcut, [N, C, *], float32, float64, bfloat16 or float16, any layout.
        r: the residue, of the same shape.
        activation: "none" or "relu".
        scale: one factor per channel (LayerScale). A vector (C,) belongs to dimension 1 of inputs
            of rank 4 and more and to the last dimension of rank 2 and 3; a broadcastable shape
            with one dimension of size C, such as (C, 1, 1), says otherwise.
        keep: one factor per sample, [N], 0 or 1/keep_prob (DropPath). Gets no gradient.
        p: exponent of the energy, p ≥ 1.

    Returns:
        y, [N, C, *], of the promoted type and in the layout of `x`; the energy, [N], float32
        (float64 for float64 inputs).

    Raises:
        ValueError: shapes, types or options outside these ranges.

    Source: TRGL (Karkar et al., NeurIPS 2023), equations 9 and 10.
    """
    y, energy = call(
        torch.ops.trgl.residual_energy.default, x, r, activation, scale, keep, p, True, False
    )
    return y, energy
