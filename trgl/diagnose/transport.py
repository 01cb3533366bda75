"""How far a map is from the optimal transport between its inputs and its outputs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trgl.diagnose.distances import gram, measurable, squared_distances


@dataclass(frozen=True)
class TransportGap:
    """The cost of a map on n samples against the optimal cost between the same two sets of points.

    Attributes:
        samples: n.
        mean_squared_displacement: (1/n) Σ_i ‖T(x_i) − x_i‖².
        per_feature: the same, divided by the number of features.
        relative: the same, divided by the variance of the inputs, (1/n) Σ_i ‖x_i − x̄‖²; NaN where
            all inputs are one point.
        optimal: (1/n) min_σ Σ_i ‖T(x_σ(i)) − x_i‖² over all permutations, which is W2² of the two
            empirical measures.
        optimality: optimal / mean_squared_displacement, from 0 to 1; 1 for a map that is optimal on
            these samples, and for one that moves nothing.
        reassigned: share of the samples that the optimal permutation sends to another's output.
        least_cosine: smallest cosine of the angle between x_i − x_j and T(x_i) − T(x_j) over all
            pairs; below 0 two samples would better exchange their outputs, so that the map is not
            optimal. 1 where no pair has a direction.
        middle_cosine: the median of these cosines.
    """

    samples: int
    mean_squared_displacement: float
    per_feature: float
    relative: float
    optimal: float
    optimality: float
    reassigned: float
    least_cosine: float
    middle_cosine: float


def transport_gap(
    x: Tensor,  # [N, *]
    y: Tensor,  # [N, *]
) -> TransportGap:
    """Compare y_i = T(x_i) with the best way to send the points x to the points y.

    optimality = min_σ Σ_i ‖y_σ(i) − x_i‖² / Σ_i ‖y_i − x_i‖²

    Between two sets of equally many points of equal weight some optimal plan is a permutation, so
    that an exact assignment gives W2² itself, without the approximation of an entropic solver. The
    cost is cubic in N: 500 points take tens of milliseconds, 5,000 about a minute.

    A value below 1 proves that the map is not optimal, since an optimal map is optimal on every
    part of its inputs. A value of 1 proves nothing beyond the samples: few samples of many
    dimensions lie far apart, and every short map is optimal on them. The cosines say how much room
    there is: an optimal map is monotone, ⟨x_i − x_j, T(x_i) − T(x_j)⟩ ≥ 0, and where all cosines
    are 1 it shifts and scales.

    Args:
        x: inputs, [N, *], floating-point, on any device.
        y: their images under the map, of the same shape.

    Raises:
        ValueError: the shapes differ, no samples, or values that are not finite.

    Source: NeurIPS 2023, section 2.3 and conclusion; an optimal map's graph is cyclically monotone.
    """
    if x.shape != y.shape or not x.numel():
        raise ValueError(
            f"a displacement needs inputs and outputs of one shape and at least one sample, "
            f"received {list(x.shape)} and {list(y.shape)}; measure only modules that keep it."
        )
    x, y = measurable("the inputs and outputs of a map", x, y)
    from scipy.optimize import linear_sum_assignment  # slow to import

    rows, columns = linear_sum_assignment(squared_distances(x, y).numpy())
    chosen = torch.as_tensor(columns)
    cost = _mean_square(x, y)
    # from the differences: a sum over the matrix would round what the displacements differ in
    optimal = min(cost, _mean_square(x, y[chosen]))
    center = x.double().mean(0, keepdim=True)
    spread = _mean_square(x, center.expand(x.shape))
    least_cosine, middle_cosine = _cosines(x, y)
    return TransportGap(
        samples=len(x),
        mean_squared_displacement=cost,
        per_feature=cost / x[0].numel(),
        relative=cost / spread if spread > 0 else float("nan"),
        optimal=optimal,
        optimality=optimal / cost if cost > 0 else 1.0,
        reassigned=float((columns != rows).mean()) if optimal < cost else 0.0,
        least_cosine=least_cosine,
        middle_cosine=middle_cosine,
    )


def _cosines(x: Tensor, y: Tensor) -> tuple[float, float]:
    """The least and the median cosine between differences of inputs and of outputs."""
    products = gram(x, y, x.double().mean(0))
    own = products.diagonal()
    inner = own.unsqueeze(1) + own - products - products.T  # ⟨x_i − x_j, y_i − y_j⟩
    lengths = (squared_distances(x, x) * squared_distances(y, y)).sqrt()
    first, second = torch.triu_indices(len(x), len(x), offset=1)
    lengths = lengths[first, second]
    cosines = (inner[first, second][lengths > 0] / lengths[lengths > 0]).clamp(-1, 1)
    if not len(cosines):
        return 1.0, 1.0
    return float(cosines.min()), float(cosines.median())


def _mean_square(x: Tensor, y: Tensor) -> float:
    return sum(
        float((a.double() - b.double()).square().sum())
        for a, b in zip(x.split(64), y.split(64), strict=True)
    ) / len(x)
