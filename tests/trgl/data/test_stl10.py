"""STL-10: planes column by column, labels from 1, and damaged files named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_sets import snapshot, write_stl10
from torchvision import datasets

from trgl import data


def test_torchvision_reads_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_stl10(tmp_path)
    before = snapshot(tmp_path)
    ours = data.load("stl10", tmp_path)
    monkeypatch.setattr(datasets.STL10, "_check_integrity", lambda _: True)
    for part, images, labels in (
        ("train", ours.x_train, ours.y_train),
        ("test", ours.x_test, ours.y_test),
    ):
        theirs = datasets.STL10(tmp_path, split=part)
        assert torch.equal(images, torch.from_numpy(theirs.data.copy()))
        assert labels.tolist() == theirs.labels.tolist()
    assert ours.input_shape == (3, 96, 96)
    assert torch.equal(data.load("stl10", folder).x_test, ours.x_test)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    ("file", "raw", "message"),
    [
        ("train_X.bin", bytes(27648 * 10 - 1), "no multiple of it"),
        ("train_X.bin", b"", "no multiple of it"),
        ("train_y.bin", bytes(range(1, 10)), "10 images in train_X.bin and 9 labels"),
        ("test_y.bin", bytes(range(5)), "from 1 to 10, received 0 to 4"),
        ("test_y.bin", bytes(range(7, 12)), "from 1 to 10, received 7 to 11"),
        ("test_X.bin", None, "there is no such file"),
    ],
)
def test_damaged_files_are_named(
    tmp_path: Path, file: str, raw: bytes | None, message: str
) -> None:
    path = write_stl10(tmp_path) / file
    if raw is None:
        path.unlink()
    else:
        path.write_bytes(raw)
    with pytest.raises(ValueError, match=message) as caught:
        data.load("stl10", tmp_path)
    assert str(path) in str(caught.value)


def test_a_folder_in_place_of_a_file_is_named(tmp_path: Path) -> None:
    path = write_stl10(tmp_path) / "train_y.bin"
    path.unlink()
    path.mkdir()
    with pytest.raises(ValueError, match="cannot be read") as caught:
        data.load("stl10", tmp_path)
    assert str(path) in str(caught.value)


def test_real_stl10(data_folder: Path) -> None:
    if not (data_folder / "stl10_binary").is_dir():
        pytest.skip(f"stl10 is not in {data_folder}")
    loaded = data.load("stl10", data_folder)
    assert (len(loaded.x_train), len(loaded.x_test)) == (5000, 8000)
    assert np.bincount(loaded.y_train).tolist() == [500] * 10
