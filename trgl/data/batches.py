"""Batches of normalized, augmented images whose randomness is a function of seed and epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from trgl.data.images import check_pair
from trgl.data.sampling import generator


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, with pixels scaled to 0 .. 1.

    Args:
        images: uint8 [N, C, H, W].

    Returns:
        Means and standard deviations; a channel that is constant gets the deviation 1.
    """
    channels = images.shape[1]
    values = torch.arange(256, dtype=torch.float64) / 255
    means, deviations = [], []
    for channel in range(channels):
        counts = torch.bincount(images[:, channel].reshape(-1).long(), minlength=256).double()
        weights = counts / counts.sum()
        mean = float((weights * values).sum())
        variance = float((weights * (values - mean) ** 2).sum())
        means.append(mean)
        deviations.append(variance**0.5 if variance > 0 else 1.0)
    return tuple(means), tuple(deviations)


class Batches:
    """A re-iterable of batches (images float32 [B, C, H, W], labels int64 [B]) on one device.

    Order, crops and flips of an epoch are drawn from (seed, epoch) alone, on the CPU: two runs of
    one seed see the same batches whatever their method, device or number of workers. Each ``iter``
    is the next epoch; ``set_epoch`` goes to any other.

    Args:
        images: uint8 [N, C, H, W].
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
            ``images``.
        seed: of order, crops and flips; not negative.
        device: where the images are kept and the batches come out.

    Raises:
        ValueError: tensors that do not fit, or an option out of range.
    """

    def __init__(
        self,
        images: Tensor,  # [N, C, H, W]
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
        if (mean is None) != (std is None):
            raise ValueError(
                "mean and std belong together: give both, or neither to take those of the images."
            )
        if mean is None or std is None:
            mean, std = channel_statistics(images)
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
        self._images = images.to(device)
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
    def augmented(self) -> bool:
        """Whether an image changes at random from epoch to epoch."""
        return self.crop_padding > 0 or self.flip

    def set_epoch(self, epoch: int) -> None:
        """Let the next iteration be this epoch, counted from 0."""
        if epoch < 0:
            raise ValueError(f"epochs count from 0, received {epoch}.")
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        epoch = self.epoch
        self.epoch += 1
        return self._epoch(epoch)

    def _bounds(self) -> list[tuple[int, int]]:
        count = len(self._labels)
        if self.drop_last and count > self.batch_size:
            count -= count % self.batch_size
        starts = list(range(0, count, self.batch_size))
        if self.shuffle and len(starts) > 1 and count - starts[-1] == 1:
            starts.pop()
        return list(zip(starts, [*starts[1:], count], strict=True))

    def _epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        count = len(self._labels)
        device = self._images.device
        draws = generator(self.seed, 2, epoch)
        order = torch.randperm(count, generator=draws) if self.shuffle else torch.arange(count)
        reach = 2 * self.crop_padding + 1
        corners = torch.randint(reach, (count, 2), generator=draws)  # [N, 2]: down, right
        mirrored = torch.rand(count, generator=draws) < 0.5  # [N]
        for start, stop in self._bounds():
            chosen = order[start:stop].to(device)
            pixels = self._images[chosen]  # [B, C, H, W]
            if self.crop_padding or self.flip:
                pixels = self._augment(pixels, corners[start:stop], mirrored[start:stop])
            yield (pixels.float() - self._shift) / self._scale, self._labels[chosen]

    def _augment(
        self,
        pixels: Tensor,  # [B, C, H, W]
        corners: Tensor,  # [B, 2]
        mirrored: Tensor,  # [B]
    ) -> Tensor:
        batch, _, height, width = pixels.shape
        rows = torch.arange(height).expand(batch, height)
        columns = torch.arange(width).expand(batch, width)
        if self.flip:
            columns = torch.where(mirrored.unsqueeze(1), columns.flip(1), columns)
        if self.crop_padding:
            rows = rows + corners[:, :1]
            columns = columns + corners[:, 1:]
            pixels = functional.pad(pixels, (self.crop_padding,) * 4)
        device = pixels.device
        sample = torch.arange(batch, device=device).view(-1, 1, 1)
        gathered = pixels.permute(0, 2, 3, 1)[
            sample, rows.to(device).unsqueeze(2), columns.to(device).unsqueeze(1)
        ]  # [B, H, W, C]
        return gathered.permute(0, 3, 1, 2).contiguous()
