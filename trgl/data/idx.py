"""The idx format of MNIST and FashionMNIST, read straight from ``.gz`` or unpacked files.

An idx file is two zero bytes, a type code (8 = unsigned byte), the number of dimensions, each
dimension as a big-endian 32-bit number, and the values
(Y. LeCun, C. Cortes, "The MNIST database of handwritten digits").
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

PARTS = {
    "x_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "x_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}
_UNSIGNED_BYTE = 8


def read_idx(path: Path) -> Tensor:
    """Read one idx file of unsigned bytes.

    Args:
        path: the file; a name that ends in ``.gz`` is unpacked in memory.

    Returns:
        A uint8 tensor of the shape that the header states.

    Raises:
        ValueError: the file cannot be read, is no idx file, or is shorter or longer than it says.
    """
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(
            f"{path}: cannot be read ({error}). The file is damaged or was only partly "
            "downloaded; replace it."
        ) from error
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] != _UNSIGNED_BYTE:
        raise ValueError(
            f"{path}: an idx file of unsigned bytes starts with the bytes 00 00 08, received "
            f"{raw[:3].hex(' ') or 'an empty file'}. This is another kind of file; replace it."
        )
    rank = raw[3]
    offset = 4 + 4 * rank
    shape = struct.unpack(f">{rank}I", raw[4:offset]) if len(raw) >= offset else ()
    if len(shape) != rank or len(raw) - offset != math.prod(shape):
        raise ValueError(
            f"{path}: the header announces shape {list(shape)} and {offset + math.prod(shape)} "
            f"bytes in all, the file has {len(raw)}. It is damaged or cut off; replace it."
        )
    values = np.frombuffer(raw, dtype=np.uint8, offset=offset).reshape(shape)
    return torch.from_numpy(values.copy())


def find_parts(directory: Path, folder: str) -> dict[str, Path] | None:
    """Find the four idx files of a data set.

    Args:
        directory: what the user named.
        folder: torchvision's name of the data set; the files may lie in
            ``directory/folder/raw``, ``directory/raw`` or ``directory`` itself.

    Returns:
        The path of each of ``x_train, y_train, x_test, y_test``, all in one place, or None.
    """
    for place in (directory / folder / "raw", directory / "raw", directory):
        found: dict[str, Path] = {}
        for key, stem in PARTS.items():
            candidates = (place / stem, place / f"{stem}.gz")
            present = [path for path in candidates if path.is_file()]
            if present:
                found[key] = present[0]
        if len(found) == len(PARTS):
            return found
    return None
