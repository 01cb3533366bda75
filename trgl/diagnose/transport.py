"""How far a map is from the optimal transport between its inputs and its outputs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trgl.diagnose.distances import squared_distances


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
    """

    samples: int
    mean_squared_displacement: float
    per_feature: float
    relative: float
    optimal: float
    optimality: float
    reassigned: float


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
    dimensions lie far apart, and every short map is optimal on them.

    Args:
        x: inputs, [N, *], floating-point.
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
    if not (torch.isfinite(x).all() and torch.isfinite(y).all()):
        raise ValueError(
            "a displacement needs finite inputs and outputs, received NaN or infinity; the network "
            "has diverged: diagnose an earlier state of it."
        )
    from scipy.optimize import linear_sum_assignment  # slow to import

    rows, columns = linear_sum_assignment(squared_distances(x, y).numpy())
    chosen = torch.as_tensor(columns)
    cost = _mean_square(x, y)
    # from the differences: a sum over the matrix would round what the displacements differ in
    optimal = min(cost, _mean_square(x, y[chosen]))
    center = x.double().mean(0, keepdim=True)
    spread = _mean_square(x, center.expand(x.shape))
    return TransportGap(
        samples=len(x),
        mean_squared_displacement=cost,
        per_feature=cost / x[0].numel(),
        relative=cost / spread if spread > 0 else float("nan"),
        optimal=optimal,
        optimality=optimal / cost if cost > 0 else 1.0,
        reassigned=float((columns != rows).mean()) if optimal < cost else 0.0,
    )


def _mean_square(x: Tensor, y: Tensor) -> float:
    return sum(
        float((a.double() - b.double()).square().sum())
        for a, b in zip(x.split(64), y.split(64), strict=True)
    ) / len(x)
