"""Plain ``.npz`` archives: any image set that NumPy can save."""

from __future__ import annotations

import itertools
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray
from torch import Tensor

from trgl.data.images import ImageData

_KEYS = ("x_train", "y_train", "x_test", "y_test")
_NAMED = 5
# RuntimeError: an encrypted or unknown compression
_DAMAGES = (ValueError, OSError, EOFError, RuntimeError, zlib.error, zipfile.BadZipFile)
_HOW = (
    "Save one with numpy.savez_compressed(FILE, x_train=..., y_train=..., x_test=..., y_test=...): "
    "images uint8 of shape [N, H, W, C] or [N, H, W], labels int64 of shape [N], counted from 0."
)


def _images(where: str, array: NDArray[np.generic]) -> Tensor:  # [N, H, W] or [N, H, W, C]
    if array.dtype != np.uint8 or array.ndim not in (3, 4):
        raise ValueError(
            f"{where} must be uint8 of shape [N, H, W, C] or [N, H, W], received {array.dtype} of "
            f"shape {list(array.shape)}. {_HOW}"
        )
    if array.ndim == 4 and array.shape[1] in (1, 3) and array.shape[3] not in (1, 2, 3, 4):
        raise ValueError(
            f"{where} must have the channels last, received shape {list(array.shape)}, which looks "
            "like [N, C, H, W]; save array.transpose(0, 2, 3, 1)."
        )
    pixels = torch.from_numpy(np.ascontiguousarray(array))
    if pixels.dim() == 3:
        return pixels.unsqueeze(1)
    return pixels.permute(0, 3, 1, 2).contiguous()


def _labels(where: str, array: NDArray[np.generic]) -> Tensor:  # [N]
    if array.dtype != np.int64 or array.ndim != 1:
        raise ValueError(
            f"{where} must be int64 of shape [N], received {array.dtype} of shape "
            f"{list(array.shape)}; save one class number per image, e.g. "
            f"array.ravel().astype('int64'), or array.argmax(1) of a one-hot one."
        )
    if array.size and int(array.min()) < 0:
        raise ValueError(
            f"{where} must count classes from 0, received {int(array.min())}; renumber the classes."
        )
    return torch.from_numpy(np.ascontiguousarray(array))


def _count_classes(where: str, labels: Tensor) -> int:  # [N]
    """The number of classes: one more than the largest label, each of them present."""
    if not len(labels):
        return 0
    present = set(labels.unique().tolist())
    largest = int(max(present))
    missing = list(
        itertools.islice((label for label in range(largest) if label not in present), _NAMED)
    )
    if missing:
        more = ", ..." if largest + 1 - len(present) > len(missing) else ""
        raise ValueError(
            f"{where} must hold every class from 0 to its largest label, received labels up to "
            f"{largest} of {len(present)} classes, without {', '.join(map(str, missing))}{more}; "
            "renumber the classes, e.g. with numpy.unique(labels, return_inverse=True)."
        )
    return largest + 1


def _read(archive: NpzFile, key: str) -> NDArray[np.generic]:
    try:
        array: NDArray[np.generic] = archive[key]
    except _DAMAGES as error:
        raise ValueError(f"{key} cannot be read ({error})") from error
    if not isinstance(array, np.ndarray):  # NumPy gives the bytes of what is no .npy file
        raise ValueError(f"{key} must be a NumPy array, received a member of another kind")
    return array


def read_npz(path: Path) -> ImageData:
    """Read an archive with ``x_train``, ``y_train``, ``x_test`` and ``y_test``.

    Args:
        path: the file. Images are uint8 [N, H, W, C] or [N, H, W], labels int64 [N] from 0.
            Pickled objects in it are refused, never executed.

    Returns:
        The data set; the number of classes is one more than the largest training label.

    Raises:
        ValueError: an unreadable file, a missing key, an array of wrong type, shape or range, or
            a class without a training image; the message names the file and the key.
    """
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file. {_HOW}")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path}: this is no .npz archive, or a damaged one. {_HOW}")
    try:
        with np.load(path, allow_pickle=False) as archive:
            missing = [key for key in _KEYS if key not in archive.files]
            arrays = {} if missing else {key: _read(archive, key) for key in _KEYS}
    except _DAMAGES as error:
        raise ValueError(f"{path}: {error}. {_HOW}") from error
    if missing:
        raise ValueError(f"{path}: {', '.join(missing)} missing. {_HOW}")
    x_train = _images(f"{path}: x_train", arrays["x_train"])
    y_train = _labels(f"{path}: y_train", arrays["y_train"])
    x_test = _images(f"{path}: x_test", arrays["x_test"])
    y_test = _labels(f"{path}: y_test", arrays["y_test"])
    classes = _count_classes(f"{path}: y_train", y_train)
    note = f"Read from {path.name}."
    try:
        return ImageData(path.stem, x_train, y_train, x_test, y_test, classes, note)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
