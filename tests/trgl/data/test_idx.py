"""MNIST and FashionMNIST: found in their layouts, and damaged files named."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from tiny_sets import idx_bytes, snapshot, write_mnist

from trgl import data
from trgl.data.idx import read_idx


@pytest.mark.parametrize("place", ["MNIST/raw", "raw", "."])
@pytest.mark.parametrize("packed", [True, False], ids=["gz", "unpacked"])
def test_idx_files_are_found_and_nothing_is_written(
    tmp_path: Path, place: str, packed: bool
) -> None:
    write_mnist(tmp_path / place, packed=packed)
    before = snapshot(tmp_path)
    loaded = data.load("mnist", tmp_path)
    assert loaded.x_train.shape == (30, 1, 28, 28)
    assert loaded.x_test.shape == (20, 1, 28, 28)
    assert loaded.y_train.tolist() == [i % 10 for i in range(30)]
    assert snapshot(tmp_path) == before


def test_fashion_mnist_has_its_own_folder(tmp_path: Path) -> None:
    write_mnist(tmp_path / "FashionMNIST" / "raw")
    assert data.load("fashion-mnist", tmp_path).name == "fashion-mnist"
    with pytest.raises(ValueError, match=r"mnist is not in .*MNIST/raw"):
        data.load("mnist", tmp_path)


@pytest.mark.parametrize(
    ("name", "place"),
    [("fashion-mnist", "MNIST"), ("fashion-mnist", "MNIST/raw"), ("mnist", "FashionMNIST")],
)
def test_the_other_mnist_is_refused(tmp_path: Path, name: str, place: str) -> None:
    folder = place.removesuffix("/raw")
    write_mnist(tmp_path / folder / "raw")
    with pytest.raises(ValueError, match=f"{name} was asked for, but .* folder {folder}:"):
        data.load(name, tmp_path / place)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (gzip.compress(idx_bytes(np.zeros((30, 28, 28), np.uint8)))[:-9], "damaged"),
        (b"no gzip at all", "cannot be read"),
        (gzip.compress(idx_bytes(np.zeros((30, 28, 28), np.uint8))[:-1]), "cut off"),
        (gzip.compress(idx_bytes(np.zeros((30, 28, 28), np.uint8)) + b"x"), "cut off"),
        (gzip.compress(b"\0\0\x0d\x01\0\0\0\1\0\0\0\0"), "00 00 08"),
        (gzip.compress(b"\0\0\x08\x03\0\0"), "announces"),
        (gzip.compress(b""), "empty file"),
        (gzip.compress(idx_bytes(np.zeros(30, np.uint8))), "3 dimensions"),
    ],
    ids=["cut-gz", "no-gz", "short", "long", "float", "header", "empty", "labels"],
)
def test_damaged_idx_files_are_named(tmp_path: Path, raw: bytes, message: str) -> None:
    write_mnist(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=message) as caught:
        data.load("mnist", tmp_path)
    assert str(path) in str(caught.value)


def test_idx_labels_out_of_range_are_named(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    path = tmp_path / "train-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(idx_bytes(np.full(30, 77, np.uint8))))
    with pytest.raises(ValueError, match=r"below the number of classes \(10\), received 77"):
        data.load("mnist", tmp_path)


def test_idx_values_arrive(tmp_path: Path) -> None:
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    (tmp_path / "a").write_bytes(idx_bytes(array))
    assert read_idx(tmp_path / "a").tolist() == array.tolist()


def test_real_mnist(data_folder: Path) -> None:
    loaded = data.load("mnist", data_folder)
    assert loaded.x_train.shape == (60000, 1, 28, 28)
    assert loaded.x_test.shape == (10000, 1, 28, 28)
    assert loaded.y_train[:5].tolist() == [5, 0, 4, 1, 9]
    (mean,), (std,) = data.channel_statistics(loaded.x_train)
    assert (round(mean, 4), round(std, 4)) == (0.1307, 0.3081)
