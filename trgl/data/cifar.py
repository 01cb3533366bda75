"""CIFAR-10 and CIFAR-100 from the files of their Python version, without running what is in them.

Each file is a pickled dictionary of an array, uint8 [N, 3072], and a list of labels
(A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009). A pickle can name
any function and have it called: this reader knows the few names that an array is made of, puts
stand-ins without effect in their place, and refuses every other name.
"""

from __future__ import annotations

import hashlib
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trgl.data.images import ImageData

_SHAPE = (3, 32, 32)
_VALUES = 3 * 32 * 32


@dataclass(frozen=True)
class _Set:
    """Folder, files and keys of a data set; ``train`` and ``test`` are torchvision's lists."""

    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    labels: str
    classes: int


SETS = {
    "cifar10": _Set(
        "cifar-10-batches-py",
        tuple(f"data_batch_{number}" for number in range(1, 6)),
        ("test_batch",),
        "labels",
        10,
    ),
    "cifar100": _Set("cifar-100-python", ("train",), ("test",), "fine_labels", 100),
}


class _Array:
    """Stands for a pickled array while its parts arrive."""

    def __init__(self, *_: object) -> None:
        self.values: NDArray[np.uint8] | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, fortran, raw = state
        self._fill(raw, kind, shape, fortran)

    @classmethod
    def of(cls, raw: Any, kind: Any, shape: Any, order: Any = "C") -> _Array:
        array = cls()
        array._fill(raw, kind, shape, order == "F")
        return array

    def _fill(self, raw: Any, kind: Any, shape: Any, fortran: Any) -> None:
        if isinstance(raw, str):  # Python 2's bytes
            raw = raw.encode("latin1")
        if getattr(kind, "code", None) not in ("u1", "|u1"):
            raise pickle.UnpicklingError("an array of another type than uint8")
        values = np.frombuffer(raw, np.uint8)
        self.values = values.reshape(shape, order="F" if fortran else "C")


class _Kind:
    """Stands for a pickled dtype."""

    def __init__(self, code: object = None, *_: object) -> None:
        self.code = code

    def __setstate__(self, state: object) -> None:
        pass


def _encoded(text: str, encoding: str = "latin1") -> bytes:
    return text.encode("latin1")  # how Python 3 writes bytes for Python 2


_KNOWN: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Kind,
    ("_codecs", "encode"): _encoded,
}
for _core in ("numpy.core", "numpy._core"):
    _KNOWN[_core + ".multiarray", "_reconstruct"] = _Array
    _KNOWN[_core + ".numeric", "_frombuffer"] = _Array.of


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}, which no image has; nothing of it was run"
            )
        return _KNOWN[module, name]


def _part(path: Path, key: str, classes: int) -> tuple[Tensor, Tensor, str]:
    """Images [N, 3, 32, 32], labels [N] and MD5 of a file.

    Raises:
        ValueError: it is missing, damaged, or holds something else.
    """

    def wrong(what: str) -> ValueError:
        return ValueError(f"{path}: {what}. Replace the file: trgl fetch does.")

    try:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False))
            stream.seek(0)
            content = _Unpickler(stream, encoding="latin1").load()
    except FileNotFoundError as error:
        raise wrong("there is no such file; the data set is incomplete") from error
    except Exception as error:  # a damaged pickle raises whatever it comes upon
        raise wrong(f"cannot be read ({type(error).__name__}: {error})") from error
    array = content.get("data") if isinstance(content, dict) else None
    values = array.values if isinstance(array, _Array) else None
    labels = content.get(key) if isinstance(content, dict) else None
    if (
        values is None
        or values.ndim != 2
        or values.shape[1] != _VALUES
        or not isinstance(labels, list)
    ):
        raise wrong(f"a dictionary of data, uint8 [N, {_VALUES}], and a list of {key} was expected")
    if len(labels) != len(values):
        raise wrong(f"every image needs one label: {len(values)} images, {len(labels)} labels")
    for label in labels:
        if not isinstance(label, int) or not 0 <= label < classes:
            raise wrong(f"labels must be whole numbers from 0 to {classes - 1}, received {label!r}")
    pixels = torch.from_numpy(values.reshape(-1, *_SHAPE).copy())
    return pixels, torch.tensor(labels, dtype=torch.int64), digest.hexdigest()


def find_cifar(name: str, directory: Path) -> Path | None:
    """The folder of the data set: in the directory, or the directory itself."""
    known = SETS[name]
    for folder in (directory / known.folder, directory):
        if any((folder / file).is_file() for file in known.train):
            return folder
    return None


def read_cifar(name: str, folder: Path) -> ImageData:
    """Read the data set from its folder.

    Raises:
        ValueError: a file is missing, damaged or another one; the message names it.
    """
    known = SETS[name]
    parts: list[tuple[Tensor, Tensor]] = []
    digests: list[str] = []
    for files in (known.train, known.test):
        found = [_part(folder / file, known.labels, known.classes) for file in files]
        images, labels, sums = zip(*found, strict=True)
        parts.append((torch.cat(images), torch.cat(labels)))
        digests += sums
    published = "" if digests == _published(name) else " The files are not the published ones."
    note = f"{name.upper()}: 32x32 colour images, {known.classes} classes.{published}"
    (x_train, y_train), (x_test, y_test) = parts
    return ImageData(name, x_train, y_train, x_test, y_test, known.classes, note)


def _published(name: str) -> list[str]:
    from torchvision import datasets  # slow to import: only when it is asked for

    known: Any = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    return [digest for _, digest in known.train_list + known.test_list]
