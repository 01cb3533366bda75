"""Ratios of distances against linear maps, whose extremes are their singular values."""

from __future__ import annotations

import pytest
import torch

from trgl.diagnose import QUANTILES, lipschitz_ratios


def points(count: int, features: int) -> torch.Tensor:
    return torch.randn(count, features, generator=torch.Generator().manual_seed(0))


def test_a_similarity_has_one_ratio() -> None:
    ratios = lipschitz_ratios(points(20, 4), 2.5 * points(20, 4) + 7)
    assert ratios is not None
    assert (ratios.pairs, ratios.coincident) == (190, 0)
    assert tuple(ratios.quantiles) == QUANTILES
    assert list(ratios.quantiles.values()) == pytest.approx([2.5] * 7, rel=1e-5)


def test_a_linear_map_stays_within_its_singular_values_and_reaches_them() -> None:
    x = torch.cat([torch.zeros(1, 3), torch.eye(3), points(30, 3)])
    matrix = torch.diag(torch.tensor([0.25, 1.0, 4.0]))
    ratios = lipschitz_ratios(x, x @ matrix)
    assert ratios is not None
    assert ratios.quantiles[0.0] == pytest.approx(0.25)
    assert ratios.quantiles[1.0] == pytest.approx(4.0)
    assert 0.25 < ratios.quantiles[0.5] < 4.0


def test_quantiles_are_those_of_all_pairs() -> None:
    x, y = points(25, 6), points(25, 9)  # another shape behind the map
    ratios = lipschitz_ratios(x, y)
    expected = torch.pdist(y.double()) / torch.pdist(x.double())
    assert ratios is not None
    for probability, value in ratios.quantiles.items():
        exact = torch.quantile(expected, probability, interpolation="nearest")
        assert value == pytest.approx(float(exact), rel=1e-6), probability


def test_pairs_of_one_point_are_left_out() -> None:
    x = points(4, 3)[[0, 0, 1, 2]]
    ratios = lipschitz_ratios(x, 3 * x)
    assert ratios is not None
    assert (ratios.pairs, ratios.coincident) == (5, 1)
    assert lipschitz_ratios(x[:2], x[:2]) is None


def test_a_constant_map_has_ratio_zero() -> None:
    ratios = lipschitz_ratios(points(10, 3), torch.ones(10, 5))
    assert ratios is not None
    assert set(ratios.quantiles.values()) == {0.0}


def test_one_output_for_each_input() -> None:
    with pytest.raises(ValueError, match="one output for each input, received 3 inputs and 4"):
        lipschitz_ratios(points(3, 2), points(4, 2))
