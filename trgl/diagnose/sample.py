"""A few samples of a loader, drawn at random."""

from __future__ import annotations

import torch
from torch import Tensor

from trgl.data import Batches
from trgl.data.sampling import generator
from trgl.feed import Loader

_STREAM = 7  # the second word of this generator; the others stand in trgl.data.sampling


def draw(
    loader: Loader,
    size: int,
    seed: int,
) -> tuple[Tensor, Tensor]:  # [n, C, H, W], [n]
    """Draw samples without replacement; each is as likely as any other.

    Where a ``trgl.data.Batches`` gives images as they are and in their order, only those that were
    drawn are read, and the loader stays at its epoch.

    Args:
        loader: re-iterable of (images [N, C, H, W], labels [N]), which is read up to the last
            sample that was drawn; before that once as a whole where it does not know its size.
        size: how many, at least 1; all where there are no more.
        seed: chooses them; the same seed and order of the loader give the same.

    Returns:
        Images and labels in the order of the loader, on the CPU.

    Raises:
        ValueError: the loader is empty, or not one sample is wanted.
        UnreadableImageError: a file that was drawn and cannot be used.
    """
    if size < 1:
        raise ValueError(f"at least one sample has to be drawn, received {size}; raise it.")
    known = getattr(loader, "samples", None)
    count = sum(len(labels) for _, labels in loader) if known is None else int(known)
    if not count:
        raise ValueError("samples cannot be drawn from an empty loader; give it some images.")
    order = torch.randperm(count, generator=generator(seed, _STREAM))
    chosen = order[:size].sort().values
    if isinstance(loader, Batches) and not (loader.shuffle or loader.augmented or loader.drop_last):
        loader, chosen = loader.part(chosen), torch.arange(len(chosen))
    last = int(chosen[-1])
    images, labels, start = [], [], 0
    for batch, classes in loader:
        here = chosen[(chosen >= start) & (chosen < start + len(classes))] - start
        start += len(classes)
        if len(here):
            images.append(batch.cpu()[here])
            labels.append(classes.cpu()[here])
        if start > last:  # what follows would be read for nothing
            break
    return torch.cat(images), torch.cat(labels)
