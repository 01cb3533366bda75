"""Tiny data sets in the layouts that the published ones have."""

from __future__ import annotations

import gzip
import pickle
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from trgl.data.cifar import SETS
from trgl.data.idx import PARTS
from trgl.data.stl10 import FILES

WNIDS = ("n02", "n01", "n03")  # the published file is not in the order of the names either


def idx_bytes(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_mnist(directory: Path, train: int = 30, test: int = 20, packed: bool = True) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    draws = np.random.default_rng(0)
    for key, stem in PARTS.items():
        count = train if key.endswith("train") else test
        array = (
            draws.integers(0, 256, (count, 28, 28), dtype=np.uint8)
            if key.startswith("x")
            else (np.arange(count) % 10).astype(np.uint8)
        )
        raw = idx_bytes(array)
        if packed:
            (directory / f"{stem}.gz").write_bytes(gzip.compress(raw))
        else:
            (directory / stem).write_bytes(raw)


def write_cifar(directory: Path, name: str = "cifar10", each: int = 0, protocol: int = 2) -> Path:
    """A CIFAR folder; `each` images per file, all classes by default."""
    known = SETS[name]
    folder = directory / known.folder
    folder.mkdir(parents=True)
    draws = np.random.default_rng(0)
    for file in known.train + known.test:
        count = each or known.classes
        content = {
            "data": draws.integers(0, 256, (count, 3072), dtype=np.uint8),
            known.labels: [number % known.classes for number in range(count)],
            "filenames": [f"{number}.png" for number in range(count)],
        }
        (folder / file).write_bytes(pickle.dumps(content, protocol=protocol))
    return folder


def write_stl10(directory: Path, train: int = 10, test: int = 5) -> Path:
    folder = directory / "stl10_binary"
    folder.mkdir(parents=True)
    draws = np.random.default_rng(0)
    for part, count in (("train", train), ("test", test)):
        # planes column by column
        images = draws.integers(0, 256, (count, 3, 96, 96), dtype=np.uint8)
        images.tofile(folder / FILES[f"x_{part}"])
        (np.arange(count) % 10 + 1).astype(np.uint8).tofile(folder / FILES[f"y_{part}"])
    return folder


def write_image(path: Path, number: int, size: tuple[int, int] = (8, 8)) -> None:
    """A colour image (height, width) that its number determines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def write_folders(
    directory: Path,
    classes: Sequence[str] = ("cat", "dog"),
    train: int = 6,
    test: int = 2,
    size: tuple[int, int] = (8, 8),
    test_part: str = "val",
    ending: str = "png",
) -> None:
    for part, count in (("train", train), (test_part, test)):
        for place, name in enumerate(classes):
            for number in range(count):
                seed = 1000 * place + 100 * (part == "train") + number
                write_image(directory / part / name / f"{number}.{ending}", seed, size)


def write_tiny_imagenet(directory: Path, train: int = 4, test: int = 3) -> Path:
    folder = directory / "tiny-imagenet-200"
    lines = []
    for place, name in enumerate(WNIDS):
        for number in range(train):
            path = folder / "train" / name / "images" / f"{name}_{number}.JPEG"
            write_image(path, 100 * place + number, (64, 64))
        (folder / "train" / name / f"{name}_boxes.txt").write_text("\n")
    for number in range(test):
        write_image(folder / "val" / "images" / f"val_{number}.JPEG", 900 + number, (64, 64))
        lines.append(f"val_{number}.JPEG\t{WNIDS[number % len(WNIDS)]}\t0\t32\t44\t62\n")
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    (folder / "wnids.txt").write_text("\n".join(WNIDS) + "\n")
    (folder / "test" / "images").mkdir(parents=True)
    return folder


def arrays(**changes: np.ndarray | None) -> dict[str, np.ndarray]:
    """The content of an .npz file."""
    draws = np.random.default_rng(1)
    every: dict[str, np.ndarray | None] = {
        "x_train": draws.integers(0, 256, (12, 6, 5, 3), dtype=np.uint8),
        "y_train": np.arange(12, dtype=np.int64) % 3,
        "x_test": draws.integers(0, 256, (7, 6, 5, 3), dtype=np.uint8),
        "y_test": np.arange(7, dtype=np.int64) % 3,
    }
    every.update(changes)
    return {key: array for key, array in every.items() if array is not None}


def snapshot(directory: Path) -> dict[str, tuple[int, int]]:
    """Times and sizes of all files, to see that none was touched."""
    return {
        str(path): (path.stat().st_mtime_ns, path.stat().st_size)
        for path in sorted(directory.rglob("*"))
    }
