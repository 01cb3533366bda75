"""One data set: training and test images with their labels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from trgl.data.files import ImageFiles, Images
from trgl.digests import digest_of


def check_pair(where: str, images: Images, labels: Tensor) -> None:
    """Check that images and labels belong together.

    Args:
        where: what is checked, in words; the start of every message.
        images: uint8 [N, C, H, W], or files.
        labels: int64 [N], not negative.

    Raises:
        ValueError: a wrong type, rank or length, an empty set, or a negative label.
    """
    for name, value in (("images", images), ("labels", labels)):
        if not isinstance(value, Tensor | ImageFiles):
            raise ValueError(
                f"{where}: {name} must be a torch.Tensor, received {type(value).__name__}; convert "
                f"an array with torch.from_numpy."
            )
    if not isinstance(images, ImageFiles) and (images.dtype != torch.uint8 or images.dim() != 4):
        raise ValueError(
            f"{where}: images must be uint8 of shape [N, C, H, W], received {images.dtype} of "
            f"shape {list(images.shape)}; convert with e.g. (x * 255).round().to(torch.uint8)."
        )
    if labels.dtype != torch.int64 or labels.dim() != 1:
        raise ValueError(
            f"{where}: labels must be int64 of shape [N], received {labels.dtype} of shape "
            f"{list(labels.shape)}; one class number per image is needed."
        )
    if images.shape[0] != labels.shape[0]:
        raise ValueError(
            f"{where}: every image needs one label, received {images.shape[0]} images and "
            f"{labels.shape[0]} labels; give both the same length."
        )
    if 0 in images.shape:
        raise ValueError(
            f"{where}: at least one image with at least one pixel is needed, received shape "
            f"{list(images.shape)}; give a set that is not empty."
        )
    if int(labels.min()) < 0:
        raise ValueError(
            f"{where}: labels count from 0, received {int(labels.min())}; renumber the classes."
        )


@dataclass(frozen=True)
class ImageData:
    """A classification data set as it was stored: pixels from 0 to 255, nothing normalized.

    Attributes:
        name: what it is called in run directories and pictures.
        x_train, x_test: uint8 [N, C, H, W], or files that hold as much.
        y_train, y_test: int64 [N], in 0 to num_classes - 1.
        num_classes: how many classes there are.
        note: one sentence about where the images come from.

    Raises:
        ValueError: tensors that do not fit each other, or labels out of range.
    """

    name: str
    x_train: Images  # [N, C, H, W]
    y_train: Tensor  # [N]
    x_test: Images  # [N', C, H, W]
    y_test: Tensor  # [N']
    num_classes: int
    note: str = ""

    def __post_init__(self) -> None:
        check_pair(f"{self.name}, training part", self.x_train, self.y_train)
        check_pair(f"{self.name}, test part", self.x_test, self.y_test)
        if self.x_train.shape[1:] != self.x_test.shape[1:]:
            raise ValueError(
                f"{self.name}: training and test images must have one shape, received "
                f"{list(self.x_train.shape[1:])} and {list(self.x_test.shape[1:])} (channels, "
                "height, width); resize one of them."
            )
        for part, labels in (("training", self.y_train), ("test", self.y_test)):
            if int(labels.max()) >= self.num_classes:
                raise ValueError(
                    f"{self.name}, {part} part: labels must be below the number of classes "
                    f"({self.num_classes}), received {int(labels.max())}; a class that occurs in "
                    "the test part only cannot be learnt: renumber or remove it."
                )

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one image."""
        _, channels, height, width = self.x_train.shape
        return channels, height, width

    def digest(self) -> str:
        """What tells this data set from others: a digest of its labels and pixels.

        Of files the names count, those of their folders included, and not what is in them.
        """
        parts = (self.x_train, self.x_test)
        pixels = [part for part in parts if isinstance(part, Tensor)]
        files = [part.paths for part in parts if isinstance(part, ImageFiles)]
        names = [[Path(path).parts[-2:] for path in paths] for paths in files]  # the set may move
        return digest_of([*pixels, self.y_train, self.y_test], repr(names) if names else "")
