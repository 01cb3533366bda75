"""`displacement_energy`: how far a layer moved its input."""

from torch import Tensor

from . import reference


def displacement_energy(
    x: Tensor,  # [N, C, *]
    y: Tensor,  # [N, C, *]
    *,
    p: float = 2.0,
) -> Tensor:  # [N]
    """Energy of the displacement from x to y.

        e_i = Σ_d |y_id − x_id|^p

    Args:
        x, y: of one shape, [N, C, *], float32, float64, bfloat16 or float16.
        p: exponent, p ≥ 1.

    Returns:
        The energy, [N], float32 (float64 for float64 inputs).

    Raises:
        ValueError: shapes or types that disagree, p < 1.

    Source: TRGL (Karkar et al., NeurIPS 2023), equation 2 and section 4 (VGG).
    """
    return reference.displacement_energy(x, y, p=p)
