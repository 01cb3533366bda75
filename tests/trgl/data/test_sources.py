"""Names and places: what is embedded, what is missing, what is fetched."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_sets import arrays, write_cifar, write_mnist, write_stl10
from torchvision import transforms

from trgl import data


def test_digits_are_embedded_and_split_the_same_way_each_time() -> None:
    first, second = data.load("digits"), data.load("digits")
    assert first.x_train.shape == (1000, 1, 8, 8)
    assert first.x_test.shape == (797, 1, 8, 8)
    assert first.num_classes == 10
    assert torch.equal(first.x_train, second.x_train)
    assert torch.equal(first.y_test, second.y_test)
    assert first.y_test[:9].tolist() == [
        1,
        4,
        5,
        6,
        0,
        1,
        3,
        4,
        5,
    ]  # figures hold for this split alone
    counts = torch.bincount(first.y_test)
    assert int(counts.max() - counts.min()) <= 5  # the 1,797 images have 174 to 183 per class
    rows = {bytes(image.numpy().tobytes()) for image in first.x_train}
    twins = sum(bytes(image.numpy().tobytes()) in rows for image in first.x_test)
    assert twins == 0


def test_digits_take_no_directory(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="part of scikit-learn"):
        data.load("digits", tmp_path)


@pytest.mark.parametrize("name", data.FETCHABLE)
def test_missing_data_names_the_directory_and_the_command(tmp_path: Path, name: str) -> None:
    nowhere = tmp_path / "nowhere"
    with pytest.raises(ValueError, match=rf"is not in {nowhere} \(looked for") as caught:
        data.load(name, nowhere)
    assert str(caught.value).endswith(f"To fetch it there: trgl fetch {name} --to {nowhere}")
    assert not nowhere.exists()
    with pytest.raises(ValueError, match=rf"data='DIR'.*trgl fetch {name} --to DIR"):
        data.load(name)


def test_a_place_that_cannot_be_looked_into_is_named(tmp_path: Path) -> None:
    place = tmp_path / ("x" * 300)  # the system refuses names of this length
    with pytest.raises(ValueError, match=r"cannot be read \(File name too long\)") as caught:
        data.load("cifar10", place)
    assert str(place) in str(caught.value)


def test_what_cannot_be_fetched_is_not_offered(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"looked for train/CLASS/\.\.\.") as caught:
        data.load("image-folder", tmp_path / "nowhere")
    assert str(caught.value).endswith("or val/CLASS/...).")


def test_a_download_is_fetched_once_and_then_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def stand_in(name: str, directory: Path) -> None:
        asked.append(name)
        write_mnist(directory / "MNIST" / "raw")

    monkeypatch.setattr("trgl.data.sources.fetch", stand_in)
    for _ in range(2):
        assert len(data.load("mnist", tmp_path / "new", download=True).x_train) == 30
    assert asked == ["mnist"]


@pytest.mark.parametrize(
    ("name", "write"),
    [("mnist", write_mnist), ("cifar10", write_cifar), ("stl10", write_stl10)],
)
def test_every_class_needs_training_images(
    tmp_path: Path, name: str, write: Callable[..., object]
) -> None:
    write(tmp_path, **({"each": 7} if name == "cifar10" else {"train": 7}))
    with pytest.raises(ValueError, match=r"there are none of 7, 8, 9 of its 10") as caught:
        data.load(name, tmp_path)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_images_in_memory_are_resized_as_torchvision_does_it(tmp_path: Path, channels: int) -> None:
    draws = np.random.default_rng(0)
    content = arrays(
        x_train=draws.integers(0, 256, (12, 9, 14, channels), dtype=np.uint8),
        x_test=draws.integers(0, 256, (7, 9, 14, channels), dtype=np.uint8),
    )
    np.savez(tmp_path / "mine.npz", **content)
    loaded = data.load("digits", tmp_path / "mine.npz", image_size=6)
    assert loaded.input_shape == (channels, 6, 6)
    mode = {1: "L", 3: "RGB", 4: "CMYK"}[channels]
    by_hand = transforms.Compose([transforms.Resize(6), transforms.CenterCrop(6)])
    for image, stored in zip(loaded.x_train, content["x_train"], strict=True):
        picture = (
            Image.fromarray(stored[..., 0])
            if channels == 1
            else Image.frombytes(mode, (14, 9), stored.tobytes())
        )
        expected = np.asarray(by_hand(picture)).reshape(6, 6, channels)
        assert np.array_equal(image.permute(1, 2, 0).numpy(), expected)


def test_images_that_have_the_size_are_left_alone() -> None:
    assert torch.equal(data.load("digits", image_size=8).x_train, data.load("digits").x_train)
    with pytest.raises(ValueError, match="received -1"):
        data.load("digits", image_size=-1)


def test_an_unknown_name_lists_what_there_is() -> None:
    with pytest.raises(ValueError, match="digits, mnist"):
        data.load("imagenet")
