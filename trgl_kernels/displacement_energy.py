"""`displacement_energy`: how far a layer moved its input."""

import torch
from torch import Tensor

from .call import call


def displacement_energy(
    x: Tensor,  # [N, C, *]
    y: Tensor,  # [N, C, *]
    *,
    p: float = 2.0,
) -> Tensor:  # [N]
    """Energy of the displacement from x to y.

        e_i = Σ_d |y_id − x_id|^p

    The difference is never stored: backward keeps `x` and `y` and takes it again. Differences are
    taken and added up in float32 (float64 for float64).

    Args:
        x: the layer's input, [N, C, *], float32, float64, bfloat16 or float16, any layout.
        y: its output, of the same shape.
        p: exponent of the energy, p ≥ 1.

    Returns:
        The energy, [N], float32 (float64 for float64 inputs).

    Raises:
        ValueError: shapes or types that disagree, p < 1.

    Source: TRGL (Karkar et al., NeurIPS 2023), equation 2 and section 4 (VGG).
    """
    energy: Tensor = call(torch.ops.trgl.displacement_energy.default, x, y, p)
    return energy
