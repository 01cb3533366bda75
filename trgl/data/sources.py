"""Where images come from: a name, or a file, becomes an ``ImageData``."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from trgl.data.cifar import SETS as CIFAR_SETS
from trgl.data.cifar import find_cifar, read_cifar
from trgl.data.fetching import fetch
from trgl.data.folders import TINY, find_tiny_imagenet, read_folders, read_tiny_imagenet
from trgl.data.idx import PARTS, find_parts, read_idx
from trgl.data.images import ImageData
from trgl.data.npz import read_npz
from trgl.data.published import FETCHABLE
from trgl.data.sampling import hold_out
from trgl.data.statistics import resized
from trgl.data.stl10 import FOLDER as STL10_FOLDER
from trgl.data.stl10 import find_stl10, read_stl10

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
_DIGITS_TEST_SIZE = 797
_DIGITS_SPLIT_SEED = 0
_NAMED = 5


def load(
    name: str,
    data: str | Path | None = None,
    download: bool = False,
    *,
    image_size: int = 0,
) -> ImageData:
    """Read a data set: small images into memory, those of one file each when they are needed.

    Args:
        name: one of ``DATASETS``. ``digits`` is embedded in scikit-learn: 1,797 images of 8x8, of
            which a fixed stratified split keeps 797 as the test part.
        data: the directory that holds the data set, read and never written unless ``download``; or
            a file that ends in ``.npz``, which then replaces the named data set.
        download: fetch a data set that is not there into the directory, see ``trgl.data.fetch``.
        image_size: side to bring images to, in pixels, see ``trgl.data.decode.fit``; 0 leaves them
            as they are.

    Returns:
        The data set. Every class has training images.

    Raises:
        ValueError: an unknown name, a data set that is not there (the message names the directory
            and the command that fetches it), or damaged files (it names the file).
        OSError: a download that failed.
    """
    if image_size < 0:
        raise ValueError(f"image_size must be a number of pixels or 0, received {image_size}.")
    if data is not None and Path(data).suffix == ".npz":
        return _sized(read_npz(Path(data)), image_size)
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
        return _sized(_digits(), image_size)
    if data is None:
        raise ValueError(
            f"the data set {name} is not embedded: name the directory that holds it by "
            f"data='DIR'.{_how(name, 'DIR')}"
        )
    directory = Path(data)
    found = _find(name, directory, image_size)
    if found is None and download and name in FETCHABLE:
        fetch(name, directory)
        found = _find(name, directory, image_size)
    if found is None:
        raise ValueError(
            f"the data set {name} is not in {directory} (looked for {_sought(name)})."
            f"{_how(name, str(directory))}"
        )
    return _sized(found, image_size)


def _find(name: str, directory: Path, image_size: int) -> ImageData | None:
    """The data set in a directory; None where nothing of it is there."""
    try:
        if directory.exists() and not directory.is_dir():
            raise ValueError(
                f"{directory} must be a directory that holds {name}, or a file that ends in .npz."
            )
        return _read(name, directory, image_size)
    except OSError as error:  # e.g. a folder above it that may not be looked into
        raise ValueError(
            f"{error.filename or directory}: cannot be read ({error.strerror or error}). Correct "
            "the path or its permissions."
        ) from error


def _read(name: str, directory: Path, image_size: int) -> ImageData | None:
    if name == "image-folder":
        return read_folders(directory, image_size) if directory.is_dir() else None
    if name == "tiny-imagenet":
        tiny = find_tiny_imagenet(directory)
        return None if tiny is None else read_tiny_imagenet(tiny, image_size)
    folder: Path | None
    if name in _IDX_FOLDER:
        found, folder = _idx(name, directory), directory
    elif name == "stl10":
        folder = find_stl10(directory)
        found = None if folder is None else read_stl10(folder)
    else:
        folder = find_cifar(name, directory)
        found = None if folder is None else read_cifar(name, folder)
    if found is not None:
        _check_complete(folder, found)
    return found


def _check_complete(place: Path | None, found: ImageData) -> None:
    present = set(found.y_train.tolist())
    missing = [str(label) for label in range(found.num_classes) if label not in present]
    if missing:
        more = ", ..." if len(missing) > _NAMED else ""
        raise ValueError(
            f"{place}: every class of {found.name} needs training images, and there are none of "
            f"{', '.join(missing[:_NAMED])}{more} of its {found.num_classes}; replace the files, "
            "or save those that you want to use as a file that ends in .npz."
        )


def _sized(found: ImageData, side: int) -> ImageData:
    if not side or not (isinstance(found.x_train, Tensor) and isinstance(found.x_test, Tensor)):
        return found
    train, test = resized(found.x_train, side), resized(found.x_test, side)
    return dataclasses.replace(found, x_train=train, x_test=test)


def _how(name: str, directory: str) -> str:
    if name not in FETCHABLE:
        return ""
    return f" To fetch it there: trgl fetch {name} --to {directory}"


def _sought(name: str) -> str:
    if name in CIFAR_SETS:
        return f"the folder {CIFAR_SETS[name].folder}"
    if name == "stl10":
        return f"the folder {STL10_FOLDER}"
    if name == "tiny-imagenet":
        return f"the folder {TINY} with a file wnids.txt"
    if name == "image-folder":
        return "train/CLASS/... and test/CLASS/... or val/CLASS/..."
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
