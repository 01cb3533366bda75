"""`batch_norm_relu`: the inner normalization of a residual branch."""

import torch
from torch import Tensor

from .call import call


def batch_norm_relu(
    z: Tensor,  # [N, C, *]
    weight: Tensor | None,  # [C]
    bias: Tensor | None,  # [C]
    running_mean: Tensor | None,  # [C]
    running_var: Tensor | None,  # [C]
    *,
    training: bool,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:  # [N, C, *]
    """Normalizes a map and cuts it off at zero, as BN and ReLU do one after the other.

        y = max(γ·(z − μ)/√(σ² + eps) + β, 0)

    with the batch's μ and σ² per channel in training and the running ones in evaluation. Backward
    needs z and BN's two vectors: the ReLU's mask is computed again, and y is not kept for it.

    Args:
        z: what enters BN, [N, C, *], float32, float64, bfloat16 or float16, any layout.
        weight, bias: γ and β of BN, [C], or None.
        running_mean, running_var: [C], or None for both; updated in training as
            torch.nn.functional.batch_norm does (the variance unbiased), read in evaluation.
        training: statistics of the batch (True) or running ones (False).
        momentum: weight of the batch in the running statistics, (1 − momentum) being that of what
            they were; any finite number, as torch.nn.functional.batch_norm takes it, although only
            0 to 1 makes an average.
        eps: added to the variance, ≥ 0.

    Returns:
        y, [N, C, *], of the type and in the layout of `z`.

    Raises:
        ValueError: shapes, types or numbers outside these ranges, one value per channel in
            training, or evaluation without running statistics.

    Source: Batch normalization (Ioffe and Szegedy, ICML 2015), algorithm 1.
    """
    outputs: tuple[Tensor, Tensor, Tensor] = call(
        torch.ops.trgl.batch_norm_relu.default,
        z,
        weight,
        bias,
        running_mean,
        running_var,
        training,
        momentum,
        eps,
    )
    return outputs[0]
