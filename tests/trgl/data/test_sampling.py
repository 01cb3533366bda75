"""Subsets and validation parts."""

from __future__ import annotations

import pytest
import torch

from trgl import data
from trgl.data.sampling import generator


def test_a_subset_keeps_the_proportions() -> None:
    labels = torch.tensor([0] * 50 + [1] * 30 + [2] * 20)[
        torch.randperm(100, generator=generator(3))
    ]
    chosen = data.subset(labels, 10, seed=0)
    assert torch.bincount(labels[chosen]).tolist() == [5, 3, 2]
    assert len(set(chosen.tolist())) == 10
    assert torch.equal(chosen, data.subset(labels, 10, seed=0))
    assert not torch.equal(chosen, data.subset(labels, 10, seed=1))
    assert torch.equal(data.subset(labels, 100, seed=5), torch.arange(100))


def test_rare_classes_are_in_every_subset() -> None:
    labels = torch.tensor([0] * 1000 + [1] + [2] * 3)
    for size in (3, 4, 17, 1003, 1004):
        counts = torch.bincount(labels[data.subset(labels, size, seed=2)], minlength=3)
        assert int(counts.sum()) == size
        assert int(counts.min()) >= 1


@pytest.mark.parametrize(("size", "message"), [(0, "at least one"), (2, "at least"), (101, "more")])
def test_impossible_subsets(size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        data.subset(torch.arange(100) % 3, size, seed=0)


def test_hold_out_divides_without_overlap() -> None:
    labels = torch.arange(60) % 4
    train, validation = data.hold_out(labels, 20, seed=1)
    assert sorted([*train.tolist(), *validation.tolist()]) == list(range(60))
    assert torch.bincount(labels[validation]).tolist() == [5] * 4
    assert torch.bincount(labels[train]).tolist() == [10] * 4


def test_hold_out_does_not_repeat_the_draws_of_a_subset() -> None:
    labels = torch.zeros(60, dtype=torch.int64)
    chosen = data.subset(labels, 20, seed=1)
    assert not torch.equal(data.hold_out(labels, 20, seed=1)[1], chosen)


def test_hold_out_leaves_every_class_on_both_sides() -> None:
    labels = torch.tensor([0] * 50 + [1] * 2)
    train, validation = data.hold_out(labels, 50, seed=0)
    assert set(labels[train].tolist()) == set(labels[validation].tolist()) == {0, 1}
    for size in (1, 51):
        with pytest.raises(ValueError, match="both sides"):
            data.hold_out(labels, size, seed=0)
    with pytest.raises(ValueError, match="rarest class has 1"):
        data.hold_out(torch.tensor([0, 0, 0, 1]), 2, seed=0)
