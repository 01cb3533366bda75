"""Batches on their way from a loader to the device, checked before anything is trained on them."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from .data.batches import Batches
from .network import GreedyNetwork

Loader = Iterable[Sequence[Tensor]]


class Feed:
    """A loader whose batches arrive on the device.

    Labels that the loader shows (an attribute `labels`, or a `TensorDataset`) are checked at once;
    others batch by batch during the first epoch, before a batch is used.

    Args:
        loader: re-iterable of pairs (images [N, C, H, W] float, labels [N] int64, or
            soft labels [N, classes] float).
        name: of the data set, for errors.
        input_shape: of one image.
        num_classes: labels are 0 to num_classes − 1.
        device: where the batches go.
        channels_last: give 4-dimensional images that layout.
        dtypes: types of images that the network takes.

    Raises:
        ValueError: the loader is empty, can be iterated only once, or holds images of another shape
            or type, or labels that are of another kind or out of range.
    """

    def __init__(
        self,
        loader: Loader,
        name: str,
        input_shape: Sequence[int],
        num_classes: int,
        device: torch.device,
        channels_last: bool = False,
        dtypes: Sequence[torch.dtype] = (torch.float32,),
    ) -> None:
        self.loader = loader
        self.name = name
        self.input_shape = tuple(input_shape)
        self.num_classes = num_classes
        self.device = device
        self.dtypes = tuple(dtypes)
        self.format = torch.channels_last if channels_last else torch.preserve_format
        if not isinstance(loader, Iterable) or isinstance(loader, Iterator):
            raise ValueError(
                f"The {name} set must be a loader that every epoch can iterate again, but got "
                f"{type(loader).__name__}. Pass a DataLoader, trgl.data.Batches or a list of "
                f"(images, labels) pairs."
            )
        if _length(loader) == 0:
            raise self._empty()
        if isinstance(loader, list | tuple):
            for batch in loader:
                self._check_pair(batch)
        labels = _labels_of(loader)
        self._labels_checked = labels is not None
        self._checked = False
        if labels is not None:
            self._check_labels(labels)

    @property
    def samples(self) -> int | None:
        """Images in the set; None where the loader does not say."""
        labels = _labels_of(self.loader)
        if labels is not None:
            return len(labels)
        if isinstance(self.loader, list | tuple):
            return sum(len(batch[0]) for batch in self.loader)
        known = getattr(self.loader, "samples", None)
        return known if isinstance(known, int) else _length(getattr(self.loader, "dataset", None))

    def check_repeats(self) -> None:
        """Holds that the set does not say that its images change from epoch to epoch.

        Raises:
            ValueError: it says so.
        """
        if getattr(self.loader, "augmented", False):
            raise ValueError(
                f"A cache holds what frozen modules make of each image, but the {self.name} set "
                f"crops or flips its images anew in every epoch. Use cache=None, or leave out crop "
                f"and flip (--crop-padding 0 --no-flip)."
            )

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self.batches()

    def batches(
        self, done: int = 0, begin: Callable[[], None] = lambda: None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """An epoch, or what is left of it.

        Args:
            done: batches that are passed over; the loader stands where the epoch began.
            begin: called behind these, before the next one is asked for.

        Raises:
            ValueError: an empty set, or images or labels that do not fit the network.
        """
        first, empty = True, done == 0
        for batch in self._from(done, begin):
            if first or not self._checked:
                self._check(batch)
            first = empty = False
            images, labels = batch[0], batch[1]
            yield (
                images.to(self.device, non_blocking=True, memory_format=self.format),
                labels.to(self.device, non_blocking=True),
            )
        if empty:
            raise self._empty()
        self._checked = self._checked or done == 0

    def _from(self, done: int, begin: Callable[[], None]) -> Iterator[Sequence[Tensor]]:
        batches: Iterator[Sequence[Tensor]]
        if isinstance(self.loader, Batches):
            batches = self.loader.iterate(done)
        else:
            batches = iter(self.loader)
            for _ in range(done):
                if next(batches, None) is None:
                    raise ValueError(
                        f"A training goes on with the data that it began with, but the {self.name} "
                        f"set has fewer than the {done} batches that are done. Give the same set."
                    )
        begin()
        yield from batches

    def position(self) -> list[dict[str, Any]]:
        """Where the loader and its samplers stand, between two epochs."""
        return [
            {
                "own": part.state_dict() if _has_state(part) else None,
                "generator": part.generator.get_state() if _has_generator(part) else None,
                "epoch": part.epoch if _counts_epochs(part) else None,
            }
            for part in _parts_of(self.loader)
        ]

    def go_to(self, position: Sequence[Mapping[str, Any]]) -> None:
        """Puts the loader and its samplers where they stood."""
        for part, state in zip(_parts_of(self.loader), position, strict=False):
            if state["own"] is not None and _has_state(part):
                part.load_state_dict(state["own"])
            if state["generator"] is not None and _has_generator(part):
                part.generator.set_state(state["generator"])
            if state["epoch"] is not None and _counts_epochs(part):
                part.set_epoch(state["epoch"])

    def _empty(self) -> ValueError:
        return ValueError(
            f"The {self.name} set must hold at least one batch, but the loader gave none. Check "
            f"its size, and drop_last when the set is smaller than a batch."
        )

    def _check_pair(self, batch: object) -> None:
        items = list(batch) if isinstance(batch, Sequence) else []
        if len(items) == 2 and all(isinstance(item, Tensor) for item in items):
            return
        of = f" of {', '.join(type(item).__name__ for item in items)}" if items else ""
        raise ValueError(
            f"A batch of the {self.name} set must be a pair of tensors, images and labels, but got "
            f"{type(batch).__name__}{of}. Adapt the loader."
        )

    def _check(self, batch: Sequence[Tensor]) -> None:
        self._check_pair(batch)
        images, labels = batch
        if images.dim() == 0 or tuple(images.shape[1:]) != self.input_shape:
            raise ValueError(
                f"The network was split for images [N, {', '.join(map(str, self.input_shape))}], "
                f"but the {self.name} set has {list(images.shape)}. Split with the input_shape of "
                f"these images, or resize them."
            )
        if not images.is_floating_point():
            raise ValueError(
                f"Images must be floating-point numbers, but the {self.name} set has "
                f"{images.dtype}. Convert and normalize them, as trgl.data.Batches does."
            )
        if images.dtype not in self.dtypes:
            raise ValueError(
                f"Images must have the type of the network, {self.dtypes[0]}, but the {self.name} "
                f"set has {images.dtype}. Convert them, or the network before it is split."
            )
        if labels.dim() == 0 or labels.shape[0] != images.shape[0]:
            raise ValueError(
                f"Every image needs a label, but a batch of the {self.name} set has "
                f"{images.shape[0]} images and labels {list(labels.shape)}. Adapt the loader."
            )
        hard = labels.dtype is torch.int64 and labels.dim() == 1
        soft = labels.is_floating_point() and labels.shape[1:] == (self.num_classes,)
        if not hard and not soft:
            raise ValueError(
                f"Labels must be int64 of shape [N], or soft ones, floating-point of shape "
                f"[N, {self.num_classes}], but the {self.name} set has {labels.dtype} of shape "
                f"{list(labels.shape)}. Convert them, for instance by labels.long().flatten()."
            )
        if not self._labels_checked:
            self._check_labels(labels)

    def _check_labels(self, labels: Tensor) -> None:
        if labels.numel() == 0:
            raise self._empty()
        if labels.is_floating_point() or labels.is_complex():
            return  # soft labels, or for the check of a batch to refuse
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= self.num_classes:
            raise ValueError(
                f"Labels must be whole numbers from 0 to {self.num_classes - 1}, but the "
                f"{self.name} set has labels from {low} to {high}. Renumber them, or split with "
                f"num_classes={high + 1}."
            )


def feed_for(
    network: GreedyNetwork,
    loader: Loader,
    name: str,
    device: torch.device,
    channels_last: bool = False,
    autocast: torch.dtype | None = None,
) -> Feed:
    """The feed of a loader for a network, whose type the images must have, or autocast's.

    Raises:
        ValueError: as `Feed`.
    """
    floats = [p.dtype for p in network.parameters() if p.is_floating_point()]
    return Feed(
        loader,
        name,
        network.input_shape,
        network.num_classes,
        device,
        channels_last and len(network.input_shape) == 3,
        (floats or [torch.float32])[:1] + ([] if autocast is None else [autocast]),
    )


def _parts_of(loader: object) -> list[Any]:
    """The loader and what it draws the order of its samples from, each once."""
    batch_sampler = getattr(loader, "batch_sampler", None)
    inner = getattr(batch_sampler, "sampler", None)
    parts = [loader, getattr(loader, "sampler", None), batch_sampler, inner]
    return list({id(part): part for part in parts if part is not None}.values())


def _has_state(part: object) -> bool:
    return hasattr(part, "state_dict") and hasattr(part, "load_state_dict")


def _has_generator(part: object) -> bool:
    return isinstance(getattr(part, "generator", None), torch.Generator)


def _counts_epochs(part: object) -> bool:
    return isinstance(getattr(part, "epoch", None), int) and hasattr(part, "set_epoch")


def _length(loader: object) -> int | None:
    try:
        return len(loader) if isinstance(loader, Sized) else None
    except TypeError:  # a DataLoader over a stream has the method and no answer
        return None


def _labels_of(loader: object) -> Tensor | None:
    labels = getattr(loader, "labels", None)
    if isinstance(labels, Tensor):
        return labels
    dataset = getattr(loader, "dataset", None)
    return dataset.tensors[-1] if isinstance(dataset, TensorDataset) else None
