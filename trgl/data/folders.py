"""Data sets of one file per image: a folder per class, and Tiny ImageNet."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import torch

from trgl.data.files import ImageFiles
from trgl.data.images import ImageData

ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
TEST_PARTS = ("test", "val")
TINY = "tiny-imagenet-200"
_NAMED = 5
_FOLDERS = (
    "The directory needs train/CLASS/... and test/CLASS/... or val/CLASS/... with images in them."
)


def _images(folder: str) -> Iterator[str]:
    """The images in a folder and the folders in it, in the order of their names.

    Raises:
        OSError: a folder that cannot be read; torchvision's reader takes it for an empty one.
    """
    with os.scandir(folder) as entries:
        ordered = sorted(entries, key=lambda entry: entry.name)
    for entry in ordered:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _images(entry.path)
        elif entry.name.lower().endswith(ENDINGS):
            yield entry.path


def _listed(folder: Path) -> list[str]:
    try:
        return list(_images(str(folder)))
    except OSError as error:
        raise ValueError(
            f"{error.filename or folder}: the folder cannot be read ({error.strerror}). Correct "
            "its permissions, or replace it."
        ) from error


def _classes(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
    except OSError as error:
        raise ValueError(f"{folder}: cannot be read ({error.strerror}). {_FOLDERS}") from error


def _some(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")


def read_folders(directory: Path, image_size: int = 0) -> ImageData:
    """A data set of one folder per class, named by the classes, in ``train`` and in ``test``.

    Args:
        directory: holds ``train`` and ``test`` or, without ``test``, ``val``. Classes are numbered
            in the order of their folders' names in ``train``; images may lie in folders below.
        image_size: side to bring images to, in pixels; 0: all are as large as the first.

    Raises:
        ValueError: another layout, a class without images, or a class that is only tested on; the
            message names the folder.
    """
    train = directory / "train"
    tests = [directory / name for name in TEST_PARTS if (directory / name).is_dir()]
    if not train.is_dir() or not tests:
        missing = train if not train.is_dir() else directory / TEST_PARTS[0]
        raise ValueError(f"{missing}: there is no such folder. {_FOLDERS}")
    classes = _classes(train)
    if not classes:
        raise ValueError(f"{train}: there is no class, that is no folder, in it. {_FOLDERS}")
    unknown = sorted(set(_classes(tests[0])) - set(classes))
    if unknown:
        raise ValueError(
            f"{tests[0]}: every class of the test part must be in {train}, received "
            f"{_some(unknown)}; remove or rename the folders."
        )
    parts = []
    for place in (train, tests[0]):
        paths: list[str] = []
        labels: list[int] = []
        for number, name in enumerate(classes):
            found = _listed(place / name) if place == train or (place / name).is_dir() else []
            if not found and place == train:
                raise ValueError(
                    f"{place / name}: every class needs training images, and there are none in "
                    f"this folder (looked for {', '.join(ENDINGS)}); add some, or remove it."
                )
            paths += found
            labels += [number] * len(found)
        if not paths:
            raise ValueError(f"{place}: there are no images in its folders. {_FOLDERS}")
        parts.append((paths, torch.tensor(labels)))
    note = f"Images of {len(classes)} folders, test images from {tests[0].name}."
    return _data(directory.resolve().name, parts, len(classes), note, image_size)


def _data(
    name: str,
    parts: list[tuple[list[str], torch.Tensor]],
    classes: int,
    note: str,
    image_size: int,
) -> ImageData:
    (x_train, y_train), (x_test, y_test) = parts
    train, test = ImageFiles.of(x_train, image_size), ImageFiles.of(x_test, image_size)
    if train.shape[1:] != test.shape[1:]:
        raise ValueError(
            f"{x_test[0]}: {test.height}x{test.width} pixels, where {x_train[0]} has "
            f"{train.height}x{train.width}; bring all to one size, e.g. by "
            f"image_size={min(train.height, train.width)}."
        )
    return ImageData(name, train, y_train, test, y_test, classes, note)


def find_tiny_imagenet(directory: Path) -> Path | None:
    """The folder of Tiny ImageNet: in the directory, or the directory itself."""
    for folder in (directory / TINY, directory):
        if (folder / "wnids.txt").is_file():
            return folder
    return None


def read_tiny_imagenet(folder: Path, image_size: int = 0) -> ImageData:
    """Tiny ImageNet as it is published; its labelled validation images are the test part.

    The classes are the lines of ``wnids.txt``, numbered in the order of their names; the images of
    a class are in ``train/WNID/images``, the test images in ``val/images``, and their classes in
    ``val/val_annotations.txt``. The images in ``test`` have no labels and are not used.

    Raises:
        ValueError: something is missing or does not fit; the message names the file.
    """
    classes = sorted({line.strip() for line in _lines(folder / "wnids.txt")} - {""})
    if not classes:
        raise ValueError(f"{folder / 'wnids.txt'}: one class per line expected; it is empty.")
    numbers = {name: number for number, name in enumerate(classes)}
    paths: list[str] = []
    labels: list[int] = []
    for name, number in numbers.items():
        place = folder / "train" / name
        found = _listed(place) if place.is_dir() else []
        if not found:
            raise ValueError(
                f"{place}: every class of wnids.txt needs training images, and there are none "
                "here. The copy is incomplete; fetch the data set again."
            )
        paths += found
        labels += [number] * len(found)
    tests = _annotated(folder / "val", numbers)
    note = (
        f"Tiny ImageNet: 64x64 colour images, {len(classes)} classes; tested on its labelled "
        "validation images."
    )
    parts = [(paths, torch.tensor(labels)), tests]
    return _data("tiny-imagenet", parts, len(classes), note, image_size)


def _annotated(folder: Path, numbers: dict[str, int]) -> tuple[list[str], torch.Tensor]:
    table = folder / "val_annotations.txt"
    there = set(_listed(folder / "images"))
    paths: list[str] = []
    labels: list[int] = []
    for line, text in enumerate(_lines(table), 1):
        if not text.strip():
            continue
        name, tab, rest = text.partition("\t")
        label = rest.split("\t")[0].strip()
        if not tab or label not in numbers:
            raise ValueError(
                f"{table}, line {line}: the name of an image, a tab and a class of wnids.txt "
                f"expected, received {text[:60]!r}; replace the file."
            )
        path = str(folder / "images" / name)
        if path not in there:
            raise ValueError(
                f"{path}: line {line} of {table.name} names this image, but it is not there. The "
                "copy is incomplete; fetch the data set again."
            )
        there.remove(path)
        paths.append(path)
        labels.append(numbers[label])
    if not paths:
        raise ValueError(f"{table}: one image per line expected; it is empty.")
    return paths, torch.tensor(labels)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path}: cannot be read ({error}). If this copy was rearranged into one folder per "
            "class, use the data set image-folder; else fetch the data set again."
        ) from error
