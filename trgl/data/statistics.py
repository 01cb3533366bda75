"""What images are normalized by, and how they are brought to another size."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from trgl.data import decode
from trgl.data.files import CHUNK, ImageFiles, Images
from trgl.data.readers import Readers


def channel_statistics(
    images: Images,  # [N, C, H, W]
    readers: Readers | None = None,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, with pixels scaled to 0 .. 1.

    They come from exact counts of the 256 values: images in files give what the same images in
    memory give, to the last bit.

    Args:
        images: uint8 [N, C, H, W], or files, which are all read.
        readers: of files; None reads them in this process.

    Returns:
        Means and standard deviations; a channel that is constant gets the deviation 1.

    Raises:
        UnreadableImageError: a file that cannot be used.
    """
    counts = torch.zeros(images.shape[1], 256, dtype=torch.int64)
    if isinstance(images, ImageFiles):
        for chunk in images.chunks(CHUNK, readers or Readers(0)):
            counts += _histogram(chunk)
    else:
        counts += _histogram(images)
    values = torch.arange(256, dtype=torch.float64) / 255
    means, deviations = [], []
    for count in counts.double():
        weights = count / count.sum()
        mean = float((weights * values).sum())
        variance = float((weights * (values - mean) ** 2).sum())
        means.append(mean)
        deviations.append(variance**0.5 if variance > 0 else 1.0)
    return tuple(means), tuple(deviations)


def _histogram(
    images: Tensor,  # [N, C, H, W]
) -> Tensor:  # [C, 256]
    channels = (images[:, channel].reshape(-1).long() for channel in range(images.shape[1]))
    return torch.stack([torch.bincount(values, minlength=256) for values in channels]).cpu()


def resized(
    images: Tensor,  # [N, C, H, W]
    side: int,
) -> Tensor:  # [N, C, side, side]
    """Images in memory brought to another size, as ``trgl.data.decode.fit`` does it.

    Args:
        images: uint8 [N, C, H, W].
        side: of the result, in pixels.
    """
    if tuple(images.shape[2:]) == (side, side):
        return images
    out = torch.empty(*images.shape[:2], side, side, dtype=torch.uint8)
    target = out.numpy()
    for place, image in enumerate(images.numpy()):
        for channel, plane in enumerate(image):  # Pillow treats the channels one by one, too
            target[place, channel] = np.asarray(decode.fit(Image.fromarray(plane), side))
    return out
