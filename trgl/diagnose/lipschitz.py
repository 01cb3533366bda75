"""How much a map stretches and shrinks the distances between samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from trgl.diagnose.distances import measurable, squared_distances

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


@dataclass(frozen=True)
class LipschitzRatios:
    """Quantiles of ‖T(x) − T(y)‖ / ‖x − y‖ over pairs of samples.

    Attributes:
        pairs: how many.
        coincident: pairs that were left out because their inputs are the same point.
        quantiles: probability to ratio; that of 1 is the largest, a lower bound of the map's
            Lipschitz constant.
    """

    pairs: int
    coincident: int
    quantiles: Mapping[float, float]


def lipschitz_ratios(
    x: Tensor,  # [N, *]
    y: Tensor,  # [N, *]
) -> LipschitzRatios | None:
    """Measure the ratios of a map y_i = T(x_i) over all pairs of its samples.

    ‖y_i − y_j‖ / ‖x_i − x_j‖,  i < j

    Args:
        x: inputs, [N, *], floating-point, on any device.
        y: outputs, [N, *]; their shape may be another.

    Returns:
        The quantiles; None where no two inputs differ.

    Raises:
        ValueError: not one output for each input, or values that are not finite.

    Source: NeurIPS 2023, section 2.3: ‖T(x) − T(y)‖ ≤ 2ε + C‖x − y‖^η.
    """
    if len(x) != len(y):
        raise ValueError(
            f"ratios of distances need one output for each input, received {len(x)} inputs and "
            f"{len(y)} outputs."
        )
    x, y = measurable("the inputs and outputs of a map", x, y)
    first, second = torch.triu_indices(len(x), len(x), offset=1)
    before = squared_distances(x, x)[first, second]
    after = squared_distances(y, y)[first, second]
    apart = before > 0
    if not apart.any():
        return None
    ratios = (after[apart] / before[apart]).sqrt()
    ordered = ratios.sort().values
    # torch.quantile refuses more than 16 million values; the nearest rank suffices here
    places = [round(probability * (len(ordered) - 1)) for probability in QUANTILES]
    values = {q: float(ordered[place]) for q, place in zip(QUANTILES, places, strict=True)}
    return LipschitzRatios(len(ordered), int((~apart).sum()), values)
