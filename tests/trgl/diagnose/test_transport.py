"""Displacements against maps whose distance from the optimal transport is known."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from trgl.diagnose import transport_gap
from trgl.diagnose.distances import squared_distances


def points(count: int = 40, features: tuple[int, ...] = (3,)) -> torch.Tensor:
    return torch.randn(count, *features, generator=torch.Generator().manual_seed(0))


def test_a_translation_is_optimal() -> None:
    x = points()
    shift = torch.tensor([3.0, -4.0, 12.0])
    gap = transport_gap(x, x + shift)
    assert gap.optimality == pytest.approx(1.0)
    assert gap.mean_squared_displacement == pytest.approx(169.0, rel=1e-6)
    assert gap.per_feature == pytest.approx(169.0 / 3, rel=1e-6)
    assert gap.reassigned == 0.0
    assert gap.least_cosine == pytest.approx(1.0)


@pytest.mark.parametrize("degrees", [10, 60, 120])
def test_a_rotation_turns_all_differences(degrees: float) -> None:
    x, angle = points(30, (2,)), math.radians(degrees)
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    gap = transport_gap(x, x @ turn.T + 5)
    assert gap.least_cosine == pytest.approx(math.cos(angle), abs=1e-5)
    assert gap.middle_cosine == pytest.approx(math.cos(angle), abs=1e-5)


def test_a_scaling_is_optimal_and_a_large_rotation_is_not() -> None:
    x = points(200, (2,))
    assert transport_gap(x, 3 * x).optimality == 1.0
    turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    turned = transport_gap(x, x @ turn.T)
    assert turned.optimality < 0.5
    assert turned.reassigned > 0.5


def test_a_permutation_of_points_moves_them_for_nothing() -> None:
    x = points()
    gap = transport_gap(x, x.roll(1, 0))
    assert (gap.optimal, gap.optimality, gap.reassigned) == (0.0, 0.0, 1.0)
    assert gap.mean_squared_displacement > 1
    assert gap.least_cosine < -0.5


def test_the_identity_moves_nothing_and_is_optimal() -> None:
    gap = transport_gap(points(), points())
    assert (gap.mean_squared_displacement, gap.optimality, gap.relative) == (0.0, 1.0, 0.0)
    assert transport_gap(points()[:1], points()[1:2]).least_cosine == 1.0


def test_the_optimum_is_that_of_all_permutations() -> None:
    x, y = points(6), points(12)[6:]
    best = min(
        float((x.double() - y[list(order)].double()).square().sum()) / 6
        for order in itertools.permutations(range(6))
    )
    assert transport_gap(x, y).optimal == pytest.approx(best, rel=1e-12)


def test_the_optimum_is_that_of_the_pot_library() -> None:
    ot = pytest.importorskip("ot", reason="the extra pot is not installed")
    x, y = points(50, (2, 4, 4)), points(100, (2, 4, 4))[50:]
    weights = [1 / 50] * 50
    cost = squared_distances(x, y).numpy()
    assert transport_gap(x, y).optimal == pytest.approx(ot.emd2(weights, weights, cost), rel=1e-9)


def test_small_displacements_of_far_points_are_seen() -> None:
    x = points(30, (5000,)) + 1000  # squared norms of 5e9 beside displacements of 5e-3
    gap = transport_gap(x.double(), x.double() + 1e-3)
    assert gap.optimality == 1.0
    assert gap.mean_squared_displacement == pytest.approx(5e-3, rel=1e-6)


@pytest.mark.parametrize("features", [(7,), (5000,), (2, 3, 4)])
def test_distances_are_those_of_the_differences(features: tuple[int, ...]) -> None:
    x = points(9, features)
    y = torch.cat([x[:4] + 1e-6, points(12, features)[9:]])
    expected = (x.double()[:, None] - y.double()[None]).flatten(2).square().sum(2)
    torch.testing.assert_close(squared_distances(x, y), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (points(), points(40, (4,)), "of one shape"),
        (points(0), points(0), "at least one sample"),
        (points(), points() * math.nan, "received NaN or infinity"),
    ],
)
def test_what_has_no_displacement_is_refused(
    x: torch.Tensor, y: torch.Tensor, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        transport_gap(x, y)
