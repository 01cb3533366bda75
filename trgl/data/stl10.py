"""The labelled part of STL-10, from its binary files.

Images are planes of red, green and blue, each column by column; labels count from 1
(A. Coates, H. Lee, A. Y. Ng, "An Analysis of Single Layer Networks in Unsupervised Feature
Learning", AISTATS 2011). The 100,000 unlabelled images are neither read nor needed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from trgl.data.images import ImageData

FOLDER = "stl10_binary"
FILES = {
    "x_train": "train_X.bin",
    "y_train": "train_y.bin",
    "x_test": "test_X.bin",
    "y_test": "test_y.bin",
}
_SIDE = 96
_CLASSES = 10


def find_stl10(directory: Path) -> Path | None:
    """The folder of the data set: in the directory, or the directory itself."""
    for folder in (directory / FOLDER, directory):
        if any((folder / file).is_file() for file in FILES.values()):
            return folder
    return None


def _bytes(path: Path) -> Tensor:
    try:
        return torch.from_numpy(np.fromfile(path, np.uint8))
    except FileNotFoundError as error:
        raise ValueError(
            f"{path}: there is no such file; the data set is incomplete. Fetch it again: trgl "
            "fetch does."
        ) from error
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error}). Replace the file.") from error


def read_stl10(folder: Path) -> ImageData:
    """Read the data set from its folder.

    Raises:
        ValueError: a file is missing, cut off, or holds something else; the message names it.
    """
    parts = {}
    for part in ("train", "test"):
        images, labels = (folder / FILES[f"{kind}_{part}"] for kind in "xy")
        pixels, numbers = _bytes(images), _bytes(labels)
        size = 3 * _SIDE * _SIDE
        if len(pixels) % size or not len(pixels):
            raise ValueError(
                f"{images}: an image has {size} bytes, and the file {len(pixels)}, which is no "
                "multiple of it. It is damaged or cut off; replace it."
            )
        if len(pixels) // size != len(numbers):
            raise ValueError(
                f"{labels}: every image needs one label, and there are {len(pixels) // size} "
                f"images in {images.name} and {len(numbers)} labels. One of the files is cut off; "
                "replace both."
            )
        if int(numbers.min()) < 1 or int(numbers.max()) > _CLASSES:
            raise ValueError(
                f"{labels}: labels must be from 1 to {_CLASSES}, received {int(numbers.min())} to "
                f"{int(numbers.max())}. This is another file, or a damaged one; replace it."
            )
        columns = pixels.view(-1, 3, _SIDE, _SIDE)
        parts[part] = columns.transpose(2, 3).contiguous(), numbers.long() - 1
    note = "STL-10: 96x96 colour images, 10 classes."
    return ImageData("stl10", *parts["train"], *parts["test"], _CLASSES, note)
