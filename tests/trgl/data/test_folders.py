"""Folders of images and Tiny ImageNet: labels, what is missing, what does not fit."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_sets import WNIDS, snapshot, write_folders, write_image, write_tiny_imagenet
from torch import Tensor
from torchvision import datasets, transforms

from trgl import data
from trgl.data.folders import read_tiny_imagenet


def pixels(images: data.ImageData) -> Tensor:
    assert isinstance(images.x_train, data.ImageFiles)
    return torch.cat(list(images.x_train.chunks(5, data.Readers(0))))


@pytest.mark.parametrize("image_size", [0, 8, 5, 20])
def test_torchvision_reads_the_same(tmp_path: Path, image_size: int) -> None:
    size = (8, 8) if image_size == 0 else (8, 11)
    write_folders(tmp_path, ("b", "a", "c"), size=size)
    write_image(tmp_path / "train" / "a" / "deeper" / "0.PNG", 77, size)
    before = snapshot(tmp_path)
    ours = data.load("image-folder", tmp_path, image_size=image_size)
    side = image_size or 8
    change = transforms.Compose([transforms.Resize(side), transforms.CenterCrop(side)])
    theirs = datasets.ImageFolder(tmp_path / "train", transform=change)
    assert ours.y_train.tolist() == theirs.targets
    assert ours.input_shape == (3, side, side)
    expected = np.stack([np.asarray(image) for image, _ in theirs])
    assert np.array_equal(pixels(ours).permute(0, 2, 3, 1).numpy(), expected)
    assert len(ours.y_test) == 6
    assert snapshot(tmp_path) == before


def test_test_comes_before_val_and_hidden_folders_are_no_classes(tmp_path: Path) -> None:
    write_folders(tmp_path, test=2)
    write_folders(tmp_path, test=1, test_part="test")
    write_image(tmp_path / "train" / ".thumbnails" / "0.png", 0)
    (tmp_path / "train" / "cat" / "notes.txt").write_text("no image")
    loaded = data.load("image-folder", tmp_path)
    assert loaded.num_classes == 2
    assert len(loaded.y_train) == 12
    assert loaded.y_test.tolist() == [0, 1]
    assert loaded.note.endswith("test images from test.")


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_images_of_16_bits_are_brought_to_8(tmp_path: Path, ending: str) -> None:
    write_folders(tmp_path, ending=ending)
    values = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(values).save(tmp_path / "train" / "cat" / f"0.{ending}")
    found = pixels(data.load("image-folder", tmp_path))[0]
    assert np.array_equal(found.numpy(), np.stack([values >> 8] * 3))


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_images_of_32_bits_are_refused(tmp_path: Path, dtype: type) -> None:
    write_folders(tmp_path, ending="tif")
    path = tmp_path / "train" / "cat" / "0.tif"
    Image.fromarray(np.ones((8, 8), dtype)).save(path)
    with pytest.raises(ValueError, match=r"0\.tif.*32 bits.*save it with 8 or 16"):
        pixels(data.load("image-folder", tmp_path))


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "P", "1"])
def test_every_image_becomes_one_in_colour(tmp_path: Path, mode: str) -> None:
    write_folders(tmp_path, ending="tif")
    path = tmp_path / "train" / "cat" / "0.tif"
    Image.fromarray(np.full((8, 8), 200, np.uint8)).convert(mode).save(path)
    assert pixels(data.load("image-folder", tmp_path)).shape == (12, 3, 8, 8)


@pytest.mark.parametrize(
    ("change", "place", "message"),
    [
        (lambda d: shutil.rmtree(d / "train"), "train", "there is no such folder"),
        (lambda d: shutil.rmtree(d / "val"), "test", "there is no such folder"),
        (lambda d: [shutil.rmtree(p) for p in (d / "train").iterdir()], "train", "no class"),
        (
            lambda d: [p.unlink() for p in (d / "train" / "dog").iterdir()],
            "train/dog",
            "every class needs training images",
        ),
        (lambda d: write_image(d / "val" / "fox" / "0.png", 0), "val", "received fox;"),
        (
            lambda d: [p.unlink() for p in (d / "val").rglob("*.png")],
            "val",
            "there are no images in its folders",
        ),
        (
            lambda d: (d / "train" / "cat" / "0.png").write_bytes(b"GIF89a"),
            "train/cat/0.png",
            "no image that can be read",
        ),
        (
            lambda d: write_image(d / "val" / "cat" / "0.png", 0, (9, 8)),
            "val/cat/0.png",
            "9x8 pixels, where .*train/cat/0.png has 8x8; .*image_size=8",
        ),
    ],
)
def test_a_wrong_layout_is_named(
    tmp_path: Path, change: Callable[[Path], object], place: str, message: str
) -> None:
    write_folders(tmp_path)
    change(tmp_path)
    with pytest.raises(ValueError, match=message) as caught:
        data.load("image-folder", tmp_path)
    assert f"{tmp_path / place}" in str(caught.value)


def test_a_class_without_test_images_is_no_error(tmp_path: Path) -> None:
    write_folders(tmp_path)
    shutil.rmtree(tmp_path / "val" / "cat")
    assert data.load("image-folder", tmp_path).y_test.tolist() == [1, 1]


def test_tiny_imagenet_has_its_validation_labels(tmp_path: Path) -> None:
    folder = write_tiny_imagenet(tmp_path)
    before = snapshot(tmp_path)
    loaded = data.load("tiny-imagenet", tmp_path)
    order = sorted(WNIDS)
    assert loaded.num_classes == 3
    assert loaded.input_shape == (3, 64, 64)
    assert loaded.y_train.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert loaded.y_test.tolist() == [order.index(WNIDS[number]) for number in range(3)]
    assert isinstance(loaded.x_train, data.ImageFiles)
    assert loaded.x_train.paths[0] == str(folder / "train/n01/images/n01_0.JPEG")
    first = np.asarray(Image.open(loaded.x_train.paths[0]))
    assert np.array_equal(pixels(loaded)[0].permute(1, 2, 0).numpy(), first)
    assert data.load("tiny-imagenet", folder).x_test == loaded.x_test  # the folder itself
    assert data.load("tiny-imagenet", tmp_path, image_size=32).input_shape == (3, 32, 32)
    assert snapshot(tmp_path) == before


def _rewrite(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text)


@pytest.mark.parametrize(
    ("change", "place", "message"),
    [
        (_rewrite("wnids.txt", "\n"), "wnids.txt", "it is empty"),
        (_rewrite("wnids.txt", "n01\nn09\n"), "train/n09", "every class of wnids.txt"),
        (
            _rewrite("wnids.txt", "n01\nn02\n"),
            "val/val_annotations.txt, line 3",
            "a class of wnids.txt",
        ),
        (_rewrite("val/val_annotations.txt", ""), "val/val_annotations.txt", "it is empty"),
        (_rewrite("val/val_annotations.txt", "val_0.JPEG n01"), ", line 1", "a tab and a class"),
        (
            _rewrite("val/val_annotations.txt", "val_9.JPEG\tn01\n"),
            "val/images/val_9.JPEG",
            "it is not there",
        ),
        (
            _rewrite("val/val_annotations.txt", "val_1.JPEG\tn01\nval_1.JPEG\tn01\n"),
            "val/images/val_1.JPEG",
            "line 2",
        ),
        (
            lambda folder: (folder / "val/val_annotations.txt").unlink(),
            "val/val_annotations.txt",
            "use the data set image-folder",
        ),
        (
            lambda folder: (folder / "val/val_annotations.txt").write_bytes(b"\xff\xfe\n"),
            "val/val_annotations.txt",
            "cannot be read",
        ),
        (lambda folder: shutil.rmtree(folder / "val/images"), "val/images", "cannot be read"),
        (lambda folder: shutil.rmtree(folder / "train/n02/images"), "train/n02", "there are none"),
    ],
)
def test_an_incomplete_tiny_imagenet_is_named(
    tmp_path: Path, change: Callable[[Path], object], place: str, message: str
) -> None:
    folder = write_tiny_imagenet(tmp_path)
    change(folder)
    with pytest.raises(ValueError, match=message) as caught:
        read_tiny_imagenet(folder)
    assert place in str(caught.value)


def test_real_tiny_imagenet(data_folder: Path) -> None:
    if not (data_folder / "tiny-imagenet-200").is_dir():
        pytest.skip(f"tiny-imagenet is not in {data_folder}")
    loaded = data.load("tiny-imagenet", data_folder)
    assert torch.bincount(loaded.y_train).tolist() == [500] * 200
    assert torch.bincount(loaded.y_test).tolist() == [50] * 200
