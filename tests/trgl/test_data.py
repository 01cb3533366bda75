"""Data: every source, every wrong input, and batches that depend on seed and epoch alone."""

from __future__ import annotations

import gzip
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from trgl import data
from trgl.data.idx import PARTS, read_idx
from trgl.data.sampling import generator


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


def snapshot(directory: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path): (path.stat().st_mtime_ns, path.stat().st_size)
        for path in sorted(directory.rglob("*"))
    }


def arrays(**changes: np.ndarray | None) -> dict[str, np.ndarray]:
    draws = np.random.default_rng(1)
    every: dict[str, np.ndarray | None] = {
        "x_train": draws.integers(0, 256, (12, 6, 5, 3), dtype=np.uint8),
        "y_train": np.arange(12, dtype=np.int64) % 3,
        "x_test": draws.integers(0, 256, (7, 6, 5, 3), dtype=np.uint8),
        "y_test": np.arange(7, dtype=np.int64) % 3,
    }
    every.update(changes)
    return {key: array for key, array in every.items() if array is not None}


# Sources


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


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10", "cifar100"])
def test_missing_data_names_the_directory_and_the_command(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="To fetch it there") as caught:
        data.load(name, tmp_path / "nowhere", command="trgl train mnist-20x1")
    message = str(caught.value)
    assert str(tmp_path / "nowhere") in message
    assert f"trgl train mnist-20x1 --data {tmp_path / 'nowhere'} --download" in message
    assert not (tmp_path / "nowhere").exists()
    with pytest.raises(ValueError, match=r"--data DIR"):
        data.load(name)


def test_an_unknown_name_lists_what_there_is() -> None:
    with pytest.raises(ValueError, match="digits, mnist"):
        data.load("imagenet")


def test_a_failed_download_is_an_error_of_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(name: str) -> None:
        raise RuntimeError("no route to host")

    monkeypatch.setattr("trgl.data.sources._torchvision_class", fail)
    with pytest.raises(OSError, match="no route to host"):
        data.load("mnist", tmp_path, download=True)


def test_a_download_is_asked_of_torchvision_and_then_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def stand_in(name: str) -> object:
        def construct(root: Path, train: bool, download: bool) -> None:
            asked.append((name, train, download))
            write_mnist(root / "MNIST" / "raw")

        return construct

    monkeypatch.setattr("trgl.data.sources._torchvision_class", stand_in)
    assert len(data.load("mnist", tmp_path / "new", download=True).x_train) == 30
    assert asked == [("mnist", True, True)]
    assert len(data.load("mnist", tmp_path / "new", download=True).x_train) == 30
    assert len(asked) == 1


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


def write_cifar10(directory: Path) -> None:
    folder = directory / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for number in range(1, 6):
        rows = np.zeros((10, 3072), np.uint8)
        content = {"data": rows, "labels": list(range(10))}
        (folder / f"data_batch_{number}").write_bytes(pickle.dumps(content))


def test_damaged_cifar_is_named_and_not_unpickled(tmp_path: Path) -> None:
    write_cifar10(tmp_path)  # right names, wrong checksums: torchvision refuses before it unpickles
    before = snapshot(tmp_path)
    with pytest.raises(ValueError, match="incomplete or damaged") as caught:
        data.load("cifar10", tmp_path)
    assert str(tmp_path / "cifar-10-batches-py") in str(caught.value)
    assert snapshot(tmp_path) == before


def test_cifar_through_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)

    class Part:
        def __init__(self, root: Path, train: bool) -> None:
            self.data = images if train else images[:10]
            self.targets = [i % 10 for i in range(len(self.data))]

    (tmp_path / "cifar-10-batches-py").mkdir()
    monkeypatch.setattr("trgl.data.sources._torchvision_class", lambda name: Part)
    loaded = data.load("cifar10", tmp_path)
    assert loaded.x_train.shape == (20, 3, 32, 32)
    assert loaded.x_train[3, 1, 5, 7] == images[3, 5, 7, 1]
    assert loaded.y_test.tolist() == list(range(10))


@pytest.mark.parametrize("grey", [True, False], ids=["NHW", "NHWC"])
def test_npz(tmp_path: Path, grey: bool) -> None:
    content = arrays()
    if grey:
        content = {k: v[..., 0] if k.startswith("x") else v for k, v in content.items()}
    path = tmp_path / "mine.npz"
    np.savez_compressed(path, **content)  # type: ignore[arg-type]
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
    np.savez(path, **arrays(**changes))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message) as caught:
        data.load("digits", path)
    assert str(path) in str(caught.value)


def test_a_member_that_is_no_array_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    np.savez(path, **arrays(x_test=None))  # type: ignore[arg-type]
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
    np.savez_compressed(path, **arrays())  # type: ignore[arg-type]
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="npz archive") as caught:
        data.load("digits", path)
    assert str(path) in str(caught.value)


def test_real_mnist(data_folder: Path) -> None:
    loaded = data.load("mnist", data_folder)
    assert loaded.x_train.shape == (60000, 1, 28, 28)
    assert loaded.x_test.shape == (10000, 1, 28, 28)
    assert loaded.y_train[:5].tolist() == [5, 0, 4, 1, 9]
    (mean,), (std,) = data.channel_statistics(loaded.x_train)
    assert (round(mean, 4), round(std, 4)) == (0.1307, 0.3081)


def test_real_cifar10_archive(data_folder: Path) -> None:
    path = data_folder / "cifar10_small.npz"
    if not path.is_file():
        pytest.skip(f"no real colour images: {path} is not there")
    loaded = data.load("cifar10", path)
    assert loaded.input_shape == (3, 32, 32)
    assert len(loaded.x_test) == 10000
    assert loaded.num_classes == 10


# Subsets


def test_a_subset_keeps_the_proportions() -> None:
    labels = torch.tensor([0] * 50 + [1] * 30 + [2] * 20)[
        torch.randperm(100, generator=generator(3))
    ]
    chosen = data.subset(labels, 10, seed=0)
    assert torch.bincount(labels[chosen]).tolist() == [5, 3, 2]
    assert len(set(chosen.tolist())) == 10
    assert torch.equal(chosen, data.subset(labels, 10, seed=0))
    assert not torch.equal(chosen, data.subset(labels, 10, seed=1))
    assert torch.equal(data.subset(labels, 100, seed=5), torch.arange(100))


def test_rare_classes_are_in_every_subset() -> None:
    labels = torch.tensor([0] * 1000 + [1] + [2] * 3)
    for size in (3, 4, 17, 1003, 1004):
        counts = torch.bincount(labels[data.subset(labels, size, seed=2)], minlength=3)
        assert int(counts.sum()) == size
        assert int(counts.min()) >= 1


@pytest.mark.parametrize(("size", "message"), [(0, "at least one"), (2, "at least"), (101, "more")])
def test_impossible_subsets(size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        data.subset(torch.arange(100) % 3, size, seed=0)


def test_hold_out_divides_without_overlap() -> None:
    labels = torch.arange(60) % 4
    train, validation = data.hold_out(labels, 20, seed=1)
    assert sorted([*train.tolist(), *validation.tolist()]) == list(range(60))
    assert torch.bincount(labels[validation]).tolist() == [5] * 4
    assert torch.bincount(labels[train]).tolist() == [10] * 4


def test_hold_out_does_not_repeat_the_draws_of_a_subset() -> None:
    labels = torch.zeros(60, dtype=torch.int64)
    chosen = data.subset(labels, 20, seed=1)
    assert not torch.equal(data.hold_out(labels, 20, seed=1)[1], chosen)


def test_hold_out_leaves_every_class_on_both_sides() -> None:
    labels = torch.tensor([0] * 50 + [1] * 2)
    train, validation = data.hold_out(labels, 50, seed=0)
    assert set(labels[train].tolist()) == set(labels[validation].tolist()) == {0, 1}
    for size in (1, 51):
        with pytest.raises(ValueError, match="both sides"):
            data.hold_out(labels, size, seed=0)
    with pytest.raises(ValueError, match="rarest class has 1"):
        data.hold_out(torch.tensor([0, 0, 0, 1]), 2, seed=0)


# Batches


def pictures(count: int = 10, channels: int = 1, side: int = 6) -> tuple[Tensor, Tensor]:
    draws = generator(9)
    images = torch.randint(1, 256, (count, channels, side, side), generator=draws).to(torch.uint8)
    return images, torch.arange(count) % 3


def epoch_of(batches: data.Batches) -> tuple[Tensor, Tensor]:
    images, labels = zip(*batches, strict=True)
    return torch.cat(images), torch.cat(labels)


def test_batches_without_randomness_are_the_normalized_images() -> None:
    images, labels = pictures(channels=2)
    batches = data.Batches(images, labels, 4)
    assert len(batches) == 3
    seen, given = epoch_of(batches)
    assert torch.equal(given, labels)
    pixels = images.double() / 255
    expected = pixels - pixels.mean((0, 2, 3), keepdim=True)
    expected = expected / pixels.std((0, 2, 3), keepdim=True, correction=0)
    torch.testing.assert_close(seen.double(), expected, atol=1e-6, rtol=1e-5)
    assert torch.equal(seen, epoch_of(batches)[0])


def test_given_statistics_are_used() -> None:
    images, labels = pictures()
    seen, _ = epoch_of(data.Batches(images, labels, 4, mean=[0.5], std=[0.25]))
    torch.testing.assert_close(seen, (images.float() / 255 - 0.5) / 0.25, atol=1e-6, rtol=1e-5)


def test_a_constant_channel_has_no_infinite_pixel() -> None:
    images = torch.full((4, 1, 3, 3), 7, dtype=torch.uint8)
    seen, _ = epoch_of(data.Batches(images, torch.zeros(4, dtype=torch.int64), 2))
    assert float(seen.abs().max()) < 1e-6


def test_every_crop_is_a_window_of_the_padded_image() -> None:
    images, labels = pictures(count=40)
    batches = data.Batches(
        images, labels, 16, crop_padding=2, flip=True, mean=[0.0], std=[1 / 255], seed=4
    )
    seen, _ = epoch_of(batches)
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2)).float()
    found = set()
    for image, crop in zip(padded, seen, strict=True):
        windows = [
            (down, right, mirrored)
            for down in range(5)
            for right in range(5)
            for mirrored in (False, True)
            if torch.allclose(
                window := image[:, down : down + 6, right : right + 6],
                crop.flip(2) if mirrored else crop,
                atol=1e-3,
            )
            and window.shape == crop.shape
        ]
        assert len(windows) == 1
        found.add(windows[0])
    assert {mirrored for _, _, mirrored in found} == {False, True}
    assert {down for down, _, _ in found} == {right for _, right, _ in found} == set(range(5))


def test_every_image_is_seen_once_in_an_order_of_its_own() -> None:
    images, labels = pictures(count=30)
    labels = torch.arange(30)
    batches = data.Batches(images, labels, 8, shuffle=True, seed=1)
    first, second = epoch_of(batches)[1], epoch_of(batches)[1]
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(30))
    assert first.tolist() != second.tolist()


def test_randomness_is_a_function_of_seed_and_epoch() -> None:
    images, labels = pictures(count=20)

    def make(seed: int) -> data.Batches:
        return data.Batches(images, labels, 6, shuffle=True, crop_padding=1, flip=True, seed=seed)

    one, other = make(3), make(3)
    torch.manual_seed(0)
    first = [epoch_of(one) for _ in range(3)]
    torch.manual_seed(1)  # the global generator plays no part
    other.set_epoch(2)
    again = epoch_of(other)
    assert torch.equal(first[2][0], again[0])
    assert torch.equal(first[2][1], again[1])
    assert not torch.equal(first[1][0], again[0])
    assert not torch.equal(epoch_of(make(4))[0], first[0][0])


def test_an_abandoned_epoch_counts() -> None:
    images, labels = pictures(count=20)
    batches = data.Batches(images, labels, 6, shuffle=True)
    next(iter(batches))
    assert batches.epoch == 1


def test_a_single_last_training_image_joins_the_batch_before() -> None:
    images, labels = pictures(count=9)
    sizes = [len(y) for _, y in data.Batches(images, labels, 4, shuffle=True)]
    assert sizes == [4, 5]
    assert [len(y) for _, y in data.Batches(images, labels, 4)] == [4, 4, 1]
    assert [len(y) for _, y in data.Batches(images[:1], labels[:1], 4, shuffle=True)] == [1]


def test_drop_last_leaves_other_images_out_each_epoch() -> None:
    images, labels = pictures(count=10)
    batches = data.Batches(images, torch.arange(10), 4, shuffle=True, drop_last=True)
    epochs = [[y.tolist() for _, y in batches] for _ in range(5)]
    assert len(batches) == 2
    assert all([len(batch) for batch in epoch] == [4, 4] for epoch in epochs)
    left_out = {frozenset(range(10)).difference(*epoch) for epoch in epochs}
    assert len(left_out) > 1
    assert len(data.Batches(images, labels, 16, drop_last=True)) == 1
    assert len(data.Batches(images, labels, 5, drop_last=True)) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1"),
        ({"batch_size": 1.5}, "batch_size must be a whole number of at least 1, received 1.5"),
        ({"crop_padding": -1}, "crop_padding"),
        ({"seed": -1}, "seed"),
        ({"mean": [0.5]}, "belong together"),
        ({"mean": [0.5, 0.5], "std": [1.0, 1.0]}, "each of the 1 channels"),
        ({"mean": [0.5], "std": [0.0]}, "above 0"),
    ],
)
def test_wrong_options_of_batches(options: dict[str, object], message: str) -> None:
    images, labels = pictures()
    with pytest.raises(ValueError, match=message):
        data.Batches(images, labels, **{"batch_size": 4, **options})  # type: ignore[arg-type]


def test_wrong_tensors_of_batches() -> None:
    images, labels = pictures()
    for wrong in (
        (images.float(), labels),
        (images[0], labels),
        (images, labels.int()),
        (images, labels[1:]),
        (images[:0], labels[:0]),
        (images, labels - 1),
    ):
        with pytest.raises(ValueError, match="batches: "):
            data.Batches(*wrong, 4)
    batches = data.Batches(images, labels, 4)
    with pytest.raises(ValueError, match="count from 0"):
        batches.set_epoch(-1)
