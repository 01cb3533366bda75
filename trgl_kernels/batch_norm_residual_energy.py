"""`batch_norm_residual_energy`: the end of a residual block and the energy of its residue."""

import torch
from torch import Tensor

from .call import call


def batch_norm_residual_energy(
    z: Tensor,  # [N, C, *]
    x: Tensor,  # [N, C, *]
    weight: Tensor | None,  # [C]
    bias: Tensor | None,  # [C]
    running_mean: Tensor | None,  # [C]
    running_var: Tensor | None,  # [C]
    *,
    training: bool,
    momentum: float = 0.1,
    eps: float = 1e-5,
    activation: str = "relu",
    keep: Tensor | None = None,  # [N]
    p: float = 2.0,
) -> tuple[Tensor, Tensor]:  # [N, C, *], [N]
    """Normalizes a branch, adds it to its shortcut, and takes the energy of what was added.

        q = keep·(γ·(z − μ)/√(σ² + eps) + β),   y = act(x + q),   e_i = Σ_d |q_id|^p

    with the batch's μ and σ² per channel in training and the running ones in evaluation. The
    residue q is never stored: backward computes it again from z and BN's two vectors.

    With training statistics, p = 2 and no `keep`, the mean of e_i / D over the batch is
    mean_c(γ_c²·σ_c²/(σ_c² + eps) + β_c²): the regularizer acts on BN's own γ and β.

    Args:
        z: what enters BN, [N, C, *], float32, float64, bfloat16 or float16, any layout.
        x: the shortcut, of the same shape.
        weight, bias: γ and β of BN, [C], or None.
        running_mean, running_var: [C], or None for both; updated in training as
            torch.nn.functional.batch_norm does (the variance unbiased), read in evaluation.
        training: statistics of the batch (True) or running ones (False).
        momentum: weight of the batch in the running statistics, (1 − momentum) being that of what
            they were; any finite number, as torch.nn.functional.batch_norm takes it, although only
            0 to 1 makes an average.
        eps: added to the variance, ≥ 0.
        activation: "relu" or "none".
        keep: one factor per sample, [N], 0 or 1/keep_prob (DropPath). Gets no gradient.
        p: exponent of the energy, p ≥ 1.

    Returns:
        y, [N, C, *], of the promoted type and in the layout of `z`; the energy, [N], float32
        (float64 for float64 inputs).

    Raises:
        ValueError: shapes, types or options outside these ranges, one value per channel in
            training, or evaluation without running statistics.

    Source: TRGL (Karkar et al., NeurIPS 2023), equations 9 and 10.
    """
    y, energy, _mean, _rstd = call(
        torch.ops.trgl.batch_norm_residual_energy.default,
        z,
        x,
        weight,
        bias,
        running_mean,
        running_var,
        training,
        momentum,
        eps,
        activation,
        keep,
        p,
        True,
    )
    return y, energy
