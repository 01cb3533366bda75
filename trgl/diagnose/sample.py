"""A few samples of a loader, drawn at random."""

from __future__ import annotations

import torch
from torch import Tensor

from trgl.data.sampling import generator
from trgl.feed import Loader

_STREAM = 7  # the second word of this generator; the others stand in trgl.data.sampling


def draw(
    loader: Loader,
    size: int,
    seed: int,
) -> tuple[Tensor, Tensor]:  # [n, C, H, W], [n]
    """Draw samples without replacement; each is as likely as any other.

    Args:
        loader: re-iterable of (images [N, C, H, W], labels [N]), which is read once, or twice where
            it does not know its size.
        size: how many; all where there are no more.
        seed: chooses them; the same seed and order of the loader give the same.

    Returns:
        Images and labels in the order of the loader, on the CPU.

    Raises:
        ValueError: the loader is empty.
    """
    known = getattr(loader, "samples", None)
    count = sum(len(labels) for _, labels in loader) if known is None else int(known)
    if not count:
        raise ValueError("samples cannot be drawn from an empty loader; give it some images.")
    order = torch.randperm(count, generator=generator(seed, _STREAM))
    chosen = order[:size].sort().values
    images, labels, start = [], [], 0
    for batch, classes in loader:
        here = chosen[(chosen >= start) & (chosen < start + len(classes))] - start
        start += len(classes)
        if len(here):
            images.append(batch.cpu()[here])
            labels.append(classes.cpu()[here])
    return torch.cat(images), torch.cat(labels)
