"""Batches of normalized, augmented images whose randomness is a function of seed and epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from trgl.data.decode import Request
from trgl.data.files import ImageFiles, Images
from trgl.data.images import check_pair
from trgl.data.readers import Readers
from trgl.data.sampling import generator
from trgl.data.statistics import channel_statistics


class Batches:
    """A re-iterable of batches (images float32 [B, C, H, W], labels int64 [B]) on one device.

    Order, crops and flips of an epoch are drawn from (seed, epoch) alone, on the CPU: two runs of
    one seed see the same batches whatever their method, device or number of workers. Each ``iter``
    is the next epoch; ``set_epoch`` goes to any other.

    Images in main memory are gathered there, and images in files read by processes of their own;
    for a GPU into pinned memory, from which it copies while the host goes on. The GPU crops,
    mirrors and normalizes; of files the reading process crops and mirrors. Only the start of an
    epoch waits for the GPU.

    Args:
        images: uint8 [N, C, H, W], or ``ImageFiles``.
        labels: int64 [N].
        batch_size: images per batch. The last batch has what is left; when that would be a single
            image in a shuffled (training) loader, it joins the batch before it: a batch norm in a
            head cannot train on one sample.
        shuffle: draw a new order each epoch.
        drop_last: leave out the last batch of an epoch where it is smaller than the others, and
            not the only one.
        crop_padding: pad by this many black pixels on each side, then crop at random to the
            original size; 0 leaves the images as they are.
        flip: mirror each image left to right with probability 1/2.
        mean, std: one number per channel, for pixels scaled to 0 .. 1; None takes those of
            ``images``, for which files are all read.
        seed: of order, crops and flips; not negative.
        device: where the batches come out. Images stay where they are.
        workers: processes that read images in files, or ``Readers`` that several loaders share;
            0 reads them in this process. No batch depends on it.

    Raises:
        ValueError: tensors that do not fit, or an option out of range.
        UnreadableImageError: in an iteration, a file that cannot be used; the message names it.
    """

    def __init__(
        self,
        images: Images,  # [N, C, H, W]
        labels: Tensor,  # [N]
        batch_size: int,
        *,
        shuffle: bool = False,
        drop_last: bool = False,
        crop_padding: int = 0,
        flip: bool = False,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
        workers: int | Readers = 0,
    ) -> None:
        check_pair("batches", images, labels)
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("crop_padding", crop_padding, 0),
            ("seed", seed, 0),
        ):
            if not isinstance(value, int) or value < least:
                raise ValueError(
                    f"{name} must be a whole number of at least {least}, received {value!r}."
                )
        self._readers = workers if isinstance(workers, Readers) else Readers(workers)
        if (mean is None) != (std is None):
            raise ValueError(
                "mean and std belong together: give both, or neither to take those of the images."
            )
        if mean is None or std is None:
            mean, std = channel_statistics(images, self._readers)
        channels = images.shape[1]
        if len(mean) != channels or len(std) != channels or min(std) <= 0:
            raise ValueError(
                f"mean and std need one number for each of the {channels} channels, std above 0; "
                f"received mean {tuple(mean)} and std {tuple(std)}."
            )
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.crop_padding = crop_padding
        self.flip = flip
        self.mean = tuple(mean)
        self.std = tuple(std)
        self.seed = seed
        self.epoch = 0
        self.device = torch.device(device)
        self._images = images
        self._labels = labels.to(device)
        scale = 255 * torch.tensor(self.std, dtype=torch.float64).view(1, -1, 1, 1)
        shift = torch.tensor(self.mean, dtype=torch.float64).view(1, -1, 1, 1) * 255
        self._scale = scale.float().to(device)
        self._shift = shift.float().to(device)

    def __len__(self) -> int:
        """Number of batches in an epoch."""
        return len(self._bounds())

    @property
    def samples(self) -> int:
        """Number of images."""
        return len(self._labels)

    @property
    def labels(self) -> Tensor:  # [N]
        """Of all images, in their own order, on the device: a trainer checks them once."""
        return self._labels

    @property
    def augmented(self) -> bool:
        """Whether an image changes at random from epoch to epoch."""
        return self.crop_padding > 0 or self.flip

    def part(
        self,
        chosen: Tensor,  # [n] int64
    ) -> Batches:
        """Some of the images in that order, neither shuffled nor augmented."""
        return Batches(
            self._images[chosen],
            self._labels.cpu()[chosen],
            self.batch_size,
            mean=self.mean,
            std=self.std,
            device=self.device,
            workers=self._readers,
        )

    def check_readable(self) -> None:
        """Read every file once; images in memory need it not.

        Raises:
            UnreadableImageError: a file that cannot be used; the message names it.
        """
        if isinstance(self._images, ImageFiles):
            self._images.check_readable(self._readers)

    def set_epoch(self, epoch: int) -> None:
        """Let the next iteration be this epoch, counted from 0."""
        if epoch < 0:
            raise ValueError(f"epochs count from 0, received {epoch}.")
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self.iterate()

    def iterate(self, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The next epoch from its batch ``first`` on, counted from 0."""
        epoch = self.epoch
        self.epoch += 1
        return self._epoch(epoch, first)

    def _bounds(self) -> list[tuple[int, int]]:
        count = len(self._labels)
        if self.drop_last and count > self.batch_size:
            count -= count % self.batch_size
        starts = list(range(0, count, self.batch_size))
        if self.shuffle and len(starts) > 1 and count - starts[-1] == 1:
            starts.pop()
        return list(zip(starts, [*starts[1:], count], strict=True))

    def _epoch(self, epoch: int, first: int) -> Iterator[tuple[Tensor, Tensor]]:
        count = len(self._labels)
        draws = generator(self.seed, 2, epoch)
        order = torch.randperm(count, generator=draws) if self.shuffle else torch.arange(count)
        reach = 2 * self.crop_padding + 1
        corners = torch.randint(reach, (count, 2), generator=draws)  # [N, 2]: down, right
        mirrored = torch.rand(count, generator=draws) < 0.5  # [N]
        if not self.flip:
            mirrored.zero_()
        bounds = self._bounds()[first:]
        if isinstance(self._images, ImageFiles):
            batches = self._read(self._images, bounds, order, corners, mirrored)
        else:
            batches = self._gather(self._images, bounds, order, corners, mirrored)
        order = order.to(self.device)
        for (start, stop), pixels in zip(bounds, batches, strict=True):
            normal = (pixels.float() - self._shift) / self._scale
            yield normal, self._labels[order[start:stop]]

    def _gather(
        self,
        images: Tensor,  # [N, C, H, W]
        bounds: Sequence[tuple[int, int]],
        order: Tensor,  # [N]
        corners: Tensor,  # [N, 2]
        mirrored: Tensor,  # [N]
    ) -> Iterator[Tensor]:  # [B, C, H, W]
        """The pixels of batches of images in memory, on the device."""
        order = order.to(images.device)
        corners, mirrored = corners.to(self.device), mirrored.to(self.device)
        staged = self.device.type == "cuda" and images.device.type == "cpu"
        for start, stop in bounds:
            chosen = order[start:stop]
            if staged:
                shape = (stop - start, *images.shape[1:])
                pinned = torch.empty(shape, dtype=torch.uint8, pin_memory=True)
                torch.index_select(images, 0, chosen, out=pinned)
                pixels = pinned.to(self.device, non_blocking=True)
            else:
                pixels = images[chosen].to(self.device)
            if self.augmented:
                windows = corners[start:stop], mirrored[start:stop]
                pixels = crop_and_flip(pixels, *windows, self.crop_padding)
            yield pixels

    def _read(
        self,
        images: ImageFiles,
        bounds: Sequence[tuple[int, int]],
        order: Tensor,  # [N]
        corners: Tensor,  # [N, 2]
        mirrored: Tensor,  # [N]
    ) -> Iterator[Tensor]:  # [B, C, H, W]
        """The pixels of batches of images in files, on the device."""

        def requests() -> Iterator[Request]:
            for start, stop in bounds:
                windows = None
                if self.augmented:
                    down, right = corners[start:stop].unbind(1)
                    flags = mirrored[start:stop].tolist()
                    windows = list(zip(down.tolist(), right.tolist(), flags, strict=True))
                yield images.request(order[start:stop], self.crop_padding, windows)

        for pixels in self._readers.read(requests(), pinned=self.device.type == "cuda"):
            there = pixels.to(self.device, non_blocking=True)
            yield there.permute(0, 3, 1, 2).contiguous()


def crop_and_flip(
    pixels: Tensor,  # [B, C, H, W]
    corners: Tensor,  # [B, 2]
    mirrored: Tensor,  # [B]
    padding: int,
) -> Tensor:  # [B, C, H, W]
    """A window of each image with black pixels around it, mirrored or not.

    Args:
        pixels: [B, C, H, W].
        corners: how far down and right the window is, int64 [B, 2], from 0 to 2 padding.
        mirrored: whether a window is mirrored left to right, bool [B].
        padding: black pixels on each side.
    """
    batch, _, height, width = pixels.shape
    device = pixels.device
    rows = torch.arange(height, device=device) + corners[:, :1]
    columns = torch.arange(width, device=device).expand(batch, width)
    columns = torch.where(mirrored.unsqueeze(1), columns.flip(1), columns) + corners[:, 1:]
    if padding:
        pixels = functional.pad(pixels, (padding,) * 4)
    sample = torch.arange(batch, device=device).view(-1, 1, 1)
    gathered = pixels.permute(0, 2, 3, 1)[
        sample, rows.unsqueeze(2), columns.unsqueeze(1)
    ]  # [B, H, W, C]
    return gathered.permute(0, 3, 1, 2).contiguous()
