"""Where images come from: a name, or a file, becomes an ``ImageData``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from trgl.data.idx import PARTS, find_parts, read_idx
from trgl.data.images import ImageData
from trgl.data.npz import read_npz
from trgl.data.sampling import hold_out

if TYPE_CHECKING:
    from collections.abc import Callable

DATASETS = (
    "digits",
    "mnist",
    "fashion-mnist",
    "cifar10",
    "cifar100",
    "stl10",
    "tiny-imagenet",
    "image-folder",
)
# (C, H, W) of an image, and the number of classes
SIZES = {
    "digits": ((1, 8, 8), 10),
    "mnist": ((1, 28, 28), 10),
    "fashion-mnist": ((1, 28, 28), 10),
    "cifar10": ((3, 32, 32), 10),
    "cifar100": ((3, 32, 32), 100),
    "stl10": ((3, 96, 96), 10),
    "tiny-imagenet": ((3, 64, 64), 200),
}
_IDX_FOLDER = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}
_CIFAR_FOLDER = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}
_DIGITS_TEST_SIZE = 797
_DIGITS_SPLIT_SEED = 0


def load(
    name: str,
    data: str | Path | None = None,
    download: bool = False,
    *,
    command: str | None = None,
) -> ImageData:
    """Read a data set into memory.

    Args:
        name: one of ``DATASETS``. ``digits`` is embedded in scikit-learn: 1,797 images of 8x8, of
            which a fixed stratified split keeps 797 as the test part.
        data: the directory that holds the data set, read and never written unless ``download``; or
            a file that ends in ``.npz``, which then replaces the named data set.
        download: fetch a data set that is not there into the directory, through torchvision.
        command: how to ask for the download, for the error message; by default this call.

    Returns:
        The data set.

    Raises:
        ValueError: an unknown name, a data set that is not there (the message names the directory
            and the command that fetches it), or damaged files.
        OSError: a download that failed.
    """
    if data is not None and Path(data).suffix == ".npz":
        return read_npz(Path(data))
    if name not in DATASETS:
        raise ValueError(
            f"the data set must be one of {', '.join(DATASETS)} or a file that ends in .npz, "
            f"received {name!r}."
        )
    if name == "digits":
        if data is not None:
            raise ValueError(
                f"the data set digits is part of scikit-learn and is read from nowhere else, "
                f"received {data}; leave the directory out, or give a file that ends in .npz."
            )
        return _digits()
    if data is None:
        raise ValueError(
            f"the data set {name} is not embedded: name the directory that holds it (--data DIR, "
            f"or data=DIR in Python). To fetch it first: {_fetch(name, 'DIR', command)}"
        )
    directory = Path(data)
    if directory.exists() and not directory.is_dir():
        raise ValueError(
            f"{directory} must be a directory that holds {name}, or a file that ends in .npz."
        )
    if name not in _IDX_FOLDER | _CIFAR_FOLDER:
        raise ValueError(f"the data set {name} cannot be read yet.")
    reader: Callable[[str, Path], ImageData | None]
    reader = _idx if name in _IDX_FOLDER else _cifar
    found = reader(name, directory)
    if found is None and download:
        _download(name, directory)
        found = reader(name, directory)
    if found is None:
        raise ValueError(
            f"the data set {name} is not in {directory} (looked for {_sought(name)}). To fetch it "
            f"there: {_fetch(name, str(directory), command)}"
        )
    return found


def _fetch(name: str, directory: str, command: str | None) -> str:
    if command is None:
        return f'trgl.data.load("{name}", data="{directory}", download=True)'
    return f"{command} --data {directory} --download"


def _sought(name: str) -> str:
    if name in _CIFAR_FOLDER:
        return f"the folder {_CIFAR_FOLDER[name]}"
    files = ", ".join(PARTS.values())
    return f"{files}, each as it is or .gz, in {_IDX_FOLDER[name]}/raw, raw or the directory itself"


def _digits() -> ImageData:
    from sklearn.datasets import load_digits  # takes a second: only when it is asked for

    bunch = load_digits()
    # The sixteen grey levels times 15: exact, and white is nearly 255.
    images = torch.from_numpy((bunch.images * 15).astype(np.uint8)).unsqueeze(1)
    labels = torch.from_numpy(bunch.target.astype(np.int64))
    train, test = hold_out(labels, _DIGITS_TEST_SIZE, _DIGITS_SPLIT_SEED, stream=1)
    note = (
        "scikit-learn's handwritten digits (UCI Optical Recognition of Handwritten Digits), 8x8 "
        "pixels, 10 classes."
    )
    return ImageData("digits", images[train], labels[train], images[test], labels[test], 10, note)


def _idx(name: str, directory: Path) -> ImageData | None:
    paths = find_parts(directory, _IDX_FOLDER[name])
    if paths is None:
        return None
    _refuse_the_other(name, paths["x_train"].parent)
    parts = {key: read_idx(path) for key, path in paths.items()}
    for key, part in parts.items():
        rank = 3 if key.startswith("x") else 1
        if part.dim() != rank:
            raise ValueError(
                f"{paths[key]}: {rank} dimensions expected, received shape {list(part.shape)}; the "
                "file is not what its name says, replace it."
            )
    try:
        return ImageData(
            name,
            parts["x_train"].unsqueeze(1),
            parts["y_train"].long(),
            parts["x_test"].unsqueeze(1),
            parts["y_test"].long(),
            10,
            f"{_IDX_FOLDER[name]}: 28x28 grey images, 10 classes.",
        )
    except ValueError as error:
        raise ValueError(f"{paths['x_train'].parent}: {error}") from error


def _refuse_the_other(name: str, place: Path) -> None:
    """MNIST and FashionMNIST have files of the same names: their folder tells them apart."""
    place = place.resolve()
    folder = place.parent.name if place.name == "raw" else place.name
    for other, known in _IDX_FOLDER.items():
        if other != name and folder == known:
            raise ValueError(
                f"the data set {name} was asked for, but the files are in a folder {known}: "
                f"{place}; ask for {other}, or give the directory that holds {_IDX_FOLDER[name]}."
            )


def _torchvision_class(name: str) -> Any:
    from torchvision import datasets  # slow to import: only when it is asked for

    return {
        "mnist": datasets.MNIST,
        "fashion-mnist": datasets.FashionMNIST,
        "cifar10": datasets.CIFAR10,
        "cifar100": datasets.CIFAR100,
    }[name]


def _cifar(name: str, directory: Path) -> ImageData | None:
    folder = directory / _CIFAR_FOLDER[name]
    if not folder.is_dir():
        return None
    try:
        parts = [_torchvision_class(name)(root=directory, train=t) for t in (True, False)]
    except (RuntimeError, OSError, EOFError) as error:
        raise ValueError(
            f"{folder}: the data set {name} is incomplete or damaged ({error}). Remove the folder "
            "and fetch it again, or give a file that ends in .npz."
        ) from error
    (x_train, y_train), (x_test, y_test) = (
        (
            torch.from_numpy(np.ascontiguousarray(part.data.transpose(0, 3, 1, 2))),
            torch.tensor(part.targets, dtype=torch.int64),
        )
        for part in parts
    )
    classes = 10 if name == "cifar10" else 100
    note = f"{name.upper()}: 32x32 colour images, {classes} classes."
    return ImageData(name, x_train, y_train, x_test, y_test, classes, note)


def _download(name: str, directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _torchvision_class(name)(root=directory, train=True, download=True)
    except (RuntimeError, OSError) as error:
        raise OSError(
            f"{name} could not be downloaded into {directory}: {error}. Check the network, or copy "
            "the files there by hand."
        ) from error
