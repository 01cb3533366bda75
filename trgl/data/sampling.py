"""Stratified, seeded parts of a labelled set."""

from __future__ import annotations

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


def _shares(counts: Tensor, size: int, limits: Tensor) -> list[int]:
    """Split ``size`` in proportion to ``counts`` by largest remainders, from 1 to ``limits`` each.

    Both are int64 [classes]; ``size`` lies between the number of classes and the sum of the limits.
    """
    total = int(counts.sum())
    quotas = [size * int(count) / total for count in counts]
    shares = [max(1, int(quota)) for quota in quotas]
    while sum(shares) < size:
        open_classes = [c for c in range(len(shares)) if shares[c] < int(limits[c])]
        shares[min(open_classes, key=lambda c: (shares[c] - quotas[c], c))] += 1
    while sum(shares) > size:
        open_classes = [c for c in range(len(shares)) if shares[c] > 1]
        shares[max(open_classes, key=lambda c: (shares[c] - quotas[c], c))] -= 1
    return shares


def _draw(labels: Tensor, size: int, seed: int, stream: int, reserve: int) -> Tensor:
    present, counts = torch.unique(labels, return_counts=True)
    draws = generator(seed, stream)
    chosen = []
    for label, share in zip(present, _shares(counts, size, counts - reserve), strict=True):
        members = torch.nonzero(labels == label).flatten()
        order = torch.randperm(len(members), generator=draws)
        chosen.append(members[order[:share]])
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
    classes = len(torch.unique(labels))
    if size > len(labels):
        raise ValueError(
            f"a subset cannot have more images than the set it is drawn from: {size} asked for, "
            f"{len(labels)} there; lower the number of images."
        )
    if size < classes or size < 1:
        raise ValueError(
            f"a stratified subset needs at least one image of each class: {size} images asked for, "
            f"{classes} classes there; raise the number of images."
        )
    return _draw(labels, size, seed, _SUBSET, reserve=0)


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
    present, counts = torch.unique(labels, return_counts=True)
    classes = len(present)
    if not classes <= size <= len(labels) - classes or int(counts.min()) < 2:
        raise ValueError(
            f"a validation split leaves at least one image of each of the {classes} classes on "
            f"both sides: {size} of {len(labels)} images were to be held out, the rarest class has "
            f"{int(counts.min())}; choose a number from {classes} to {len(labels) - classes}, or a "
            "larger training subset."
        )
    validation = _draw(labels, size, seed, stream, reserve=1)
    left = torch.ones(len(labels), dtype=torch.bool)
    left[validation] = False
    return torch.nonzero(left).flatten(), validation
