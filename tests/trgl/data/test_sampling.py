"""Subsets and validation parts."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from trgl import data
from trgl.data.sampling import _SUBSET, HOLD_OUT, generator


def by_definition(labels: Tensor, size: int, seed: int, stream: int, reserve: int) -> Tensor:
    """The draw, class by class and image by image."""
    counts = sorted(Counter(labels.tolist()).items())
    quotas = {label: size * count / len(labels) for label, count in counts}
    shares = {label: max(1, math.floor(quota)) for label, quota in quotas.items()}
    while sum(shares.values()) < size:
        below = [label for label, count in counts if shares[label] < count - reserve]
        shares[min(below, key=lambda label: (shares[label] - quotas[label], label))] += 1
    while sum(shares.values()) > size:
        above = [label for label in shares if shares[label] > 1]
        shares[max(above, key=lambda label: (shares[label] - quotas[label], label))] -= 1
    draws = generator(seed, stream)
    chosen: list[int] = []
    for label, share in shares.items():
        members = torch.nonzero(labels == label).flatten()
        chosen += members[torch.randperm(len(members), generator=draws)[:share]].tolist()
    return torch.tensor(sorted(chosen))


class Reads(TorchDispatchMode):
    """Counts the operations on a tensor of so many elements."""

    def __init__(self, elements: int) -> None:
        super().__init__()
        self.elements, self.count = elements, 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.count += any(isinstance(a, Tensor) and a.numel() == self.elements for a in args)
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("seed", range(12))
def test_draws_are_those_of_the_definition(seed: int) -> None:
    draws = generator(seed, 99)
    rarity = torch.rand(9, generator=draws) ** 3 + 0.02
    labels = 3 * torch.multinomial(rarity, 200, replacement=True, generator=draws)
    labels = torch.cat([labels, labels.unique()])  # two of each
    labels = labels[torch.randperm(len(labels), generator=draws)]
    classes = len(labels.unique())
    for size in (classes, classes + 1, 50, 150, len(labels) - classes, len(labels)):
        expected = by_definition(labels, size, seed, _SUBSET, 0)
        assert torch.equal(data.subset(labels, size, seed), expected)
    for size in (classes, classes + 1, 50, 150, len(labels) - classes):
        expected = by_definition(labels, size, seed, HOLD_OUT, 1)
        assert torch.equal(data.hold_out(labels, size, seed)[1], expected)


@pytest.mark.parametrize("classes", [2, 400])
def test_labels_are_read_a_few_times_however_many_classes_there_are(classes: int) -> None:
    labels = torch.arange(2003) % classes
    for draw in (data.subset, data.hold_out):
        with Reads(len(labels)) as reads:
            draw(labels, 500, seed=0)
        assert reads.count < 20


def test_a_whole_set_is_no_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("trgl.data.sampling.generator")
    assert torch.equal(data.subset(torch.arange(60) % 4, 60, seed=0), torch.arange(60))


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
