"""Archives of arrays: read, or refused with the names of file and key."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from tiny_sets import arrays

from trgl import data


@pytest.mark.parametrize("grey", [True, False], ids=["NHW", "NHWC"])
def test_npz(tmp_path: Path, grey: bool) -> None:
    content = arrays()
    if grey:
        content = {k: v[..., 0] if k.startswith("x") else v for k, v in content.items()}
    path = tmp_path / "mine.npz"
    np.savez_compressed(path, **content)
    loaded = data.load("cifar10", path)
    assert loaded.name == "mine"
    assert loaded.num_classes == 3
    assert loaded.input_shape == ((1, 6, 5) if grey else (3, 6, 5))
    expected = content["x_train"][2, 4, 3] if grey else content["x_train"][2, 4, 3, 0]
    assert loaded.x_train[2, 0, 4, 3] == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_test": None}, "y_test missing"),
        ({"x_train": np.zeros((12, 6, 5, 3), np.float32)}, "x_train must be uint8"),
        ({"x_test": np.zeros((7, 90), np.uint8)}, "x_test must be uint8 of shape"),
        ({"x_train": np.zeros((12, 3, 32, 32), np.uint8)}, "x_train must have the channels last"),
        ({"y_train": np.arange(12, dtype=np.int32) % 3}, "y_train must be int64"),
        ({"y_train": np.zeros((12, 3), np.int64)}, "y_train must be int64 of shape"),
        ({"y_test": np.arange(7, dtype=np.int64) - 1}, "y_test must count classes from 0"),
        ({"y_test": np.full(7, 3, np.int64)}, "below the number of classes"),
        ({"y_train": np.zeros(11, np.int64)}, "one label"),
        ({"x_train": np.zeros((0, 6, 5, 3), np.uint8), "y_train": np.zeros(0, np.int64)}, "one im"),
        ({"x_test": np.zeros((7, 6, 4, 3), np.uint8)}, "one shape"),
        ({"y_train": np.array(["a"] * 12, dtype=object)}, "y_train cannot be read"),
        ({"y_train": np.arange(12, dtype=np.int64) % 3 * 2}, "up to 4 of 3 classes, without 1, 3;"),
        (
            {"y_train": np.array([0] * 11 + [2**40], np.int64)},
            "up to 1099511627776 of 2 classes, without 1, 2, 3, 4, 5, ...;",
        ),
    ],
)
def test_a_wrong_npz_names_file_and_key(
    tmp_path: Path, changes: dict[str, np.ndarray | None], message: str
) -> None:
    path = tmp_path / "mine.npz"
    np.savez(path, **arrays(**changes))
    with pytest.raises(ValueError, match=message) as caught:
        data.load("digits", path)
    assert str(path) in str(caught.value)


def test_a_member_that_is_no_array_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    np.savez(path, **arrays(x_test=None))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("x_test", b"text")
    with pytest.raises(ValueError, match="x_test must be a NumPy array") as caught:
        data.load("digits", path)
    assert str(path) in str(caught.value)


def test_what_is_no_npz_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    with pytest.raises(ValueError, match="no such file"):
        data.load("digits", path)
    path.write_bytes(b"something else")
    with pytest.raises(ValueError, match="npz archive") as caught:
        data.load("digits", path)
    assert str(path) in str(caught.value)
    with path.open("wb") as stream:
        np.save(stream, np.zeros(3))
    with pytest.raises(ValueError, match=r"no \.npz archive"):
        data.load("digits", path)
    np.savez_compressed(path, **arrays())
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="npz archive") as caught:
        data.load("digits", path)
    assert str(path) in str(caught.value)


def test_real_cifar10_archive(data_folder: Path) -> None:
    path = data_folder / "cifar10_small.npz"
    if not path.is_file():
        pytest.skip(f"no real colour images: {path} is not there")
    loaded = data.load("cifar10", path)
    assert loaded.input_shape == (3, 32, 32)
    assert len(loaded.x_test) == 10000
    assert loaded.num_classes == 10
