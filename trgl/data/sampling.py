"""Stratified, seeded parts of a labelled set."""

from __future__ import annotations

import heapq

import numpy as np
import torch
from torch import Tensor

# second words of the generators of one seed; batches have theirs in batches.py
_SUBSET, HOLD_OUT, HEADS, DECODER = 1, 3, 4, 5


def generator(*words: int) -> torch.Generator:
    """A CPU generator seeded by a tuple of non-negative numbers, e.g. (seed, epoch).

    The words are mixed by NumPy's SeedSequence, so that (0, 1) and (1, 0) are unrelated streams.
    """
    state = np.random.SeedSequence(words).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


def _shares(counts: list[int], size: int, reserve: int) -> list[int]:
    """Split ``size`` in proportion to ``counts`` by largest remainders, from 1 to a limit each.

    The limits are ``counts - reserve``; ``size`` lies between the number of classes and their sum.
    """
    total = sum(counts)
    quotas = [size * count / total for count in counts]
    shares = [max(1, int(quota)) for quota in quotas]
    missing = size - sum(shares)
    sign = 1 if missing > 0 else -1
    limits = [count - reserve if missing > 0 else 1 for count in counts]
    # a heap: there may be tens of thousands of classes, and each step of one image changes one
    furthest = [
        (sign * (share - quota), sign * c)
        for c, (share, quota) in enumerate(zip(shares, quotas, strict=True))
        if share != limits[c]
    ]
    heapq.heapify(furthest)
    for _ in range(abs(missing)):
        c = sign * furthest[0][1]
        shares[c] += sign
        if shares[c] != limits[c]:
            heapq.heapreplace(furthest, (sign * (shares[c] - quotas[c]), sign * c))
        else:
            heapq.heappop(furthest)
    return shares


def _members(labels: Tensor) -> list[Tensor]:
    """The indices of each class that is there, by class, in increasing order, int64 [N_c] each."""
    order = torch.argsort(labels, stable=True)
    counts = torch.unique_consecutive(labels[order], return_counts=True)[1]
    return list(order.split(counts.tolist()))


def _draw(members: list[Tensor], size: int, seed: int, stream: int, reserve: int) -> Tensor:
    draws = generator(seed, stream)
    chosen = []
    shares = _shares([len(places) for places in members], size, reserve)
    for places, share in zip(members, shares, strict=True):
        order = torch.randperm(len(places), generator=draws)
        chosen.append(places[order[:share]])
    return torch.cat(chosen).sort().values


def subset(labels: Tensor, size: int, seed: int) -> Tensor:
    """Draw a stratified subset: the classes keep their proportions, each has at least one image.

    Args:
        labels: int64 [N].
        size: number of images, from the number of classes to N.
        seed: chooses the images; the same seed gives the same subset.

    Returns:
        The chosen indices in increasing order, int64 [size].

    Raises:
        ValueError: fewer images than classes, or more than there are.
    """
    if 0 < size == len(labels):
        return torch.arange(size, device=labels.device)  # in no class is there a choice
    if size > len(labels):
        raise ValueError(
            f"a subset cannot have more images than the set it is drawn from: {size} asked for, "
            f"{len(labels)} there; lower the number of images."
        )
    members = _members(labels)
    if size < len(members) or size < 1:
        raise ValueError(
            f"a stratified subset needs at least one image of each class: {size} images asked for, "
            f"{len(members)} classes there; raise the number of images."
        )
    return _draw(members, size, seed, _SUBSET, reserve=0)


def hold_out(
    labels: Tensor, size: int, seed: int, *, stream: int = HOLD_OUT
) -> tuple[Tensor, Tensor]:
    """Split a labelled set into a training and a validation part, both stratified.

    Args:
        labels: int64 [N].
        size: number of validation images.
        seed: chooses them.
        stream: of the seed's random numbers; by default one that ``subset`` does not use.

    Returns:
        The indices of the training part [N - size] and of the validation part [size], each in
        increasing order and without a common element.

    Raises:
        ValueError: a part would have fewer images than there are classes.
    """
    members = _members(labels)
    classes, rarest = len(members), min((len(places) for places in members), default=0)
    if not classes <= size <= len(labels) - classes or rarest < 2:
        raise ValueError(
            f"a validation split leaves at least one image of each of the {classes} classes on "
            f"both sides: {size} of {len(labels)} images were to be held out, the rarest class has "
            f"{rarest}; choose a number from {classes} to {len(labels) - classes}, or a "
            "larger training subset."
        )
    validation = _draw(members, size, seed, stream, reserve=1)
    left = torch.ones(len(labels), dtype=torch.bool)
    left[validation] = False
    return torch.nonzero(left).flatten(), validation
