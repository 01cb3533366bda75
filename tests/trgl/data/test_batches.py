"""Batches that depend on seed and epoch alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_sets import write_folders
from torch import Tensor

from trgl import data
from trgl.data.sampling import generator


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


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: its batches were not tested")
@pytest.mark.parametrize("place", ["memory", "device", "files"])
def test_a_gpu_gets_the_same_batches_and_is_not_waited_for(tmp_path: Path, place: str) -> None:
    write_folders(tmp_path, ("a", "b"), train=12)
    stored = data.load("image-folder", tmp_path)
    assert isinstance(stored.x_train, data.ImageFiles)
    in_memory = torch.cat(list(stored.x_train.chunks(8, data.Readers(0)))).contiguous()
    source = {"memory": in_memory, "device": in_memory.cuda(), "files": stored.x_train}[place]

    def make(images: Tensor | data.ImageFiles, device: str) -> data.Batches:
        return data.Batches(
            images,
            stored.y_train,
            5,
            shuffle=True,
            crop_padding=2,
            flip=True,
            mean=[0.4, 0.5, 0.6],
            std=[0.2, 0.3, 0.25],
            device=device,
            workers=2,
        )

    epoch = iter(make(source, "cuda"))
    there = [next(epoch)]
    torch.cuda.set_sync_debug_mode("error")
    try:
        there += epoch
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for (x, y), (u, v) in zip(make(in_memory, "cpu"), there, strict=True):
        assert u.is_cuda
        assert torch.equal(x, u.cpu())
        assert torch.equal(y, v.cpu())


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
def test_wrong_options_of_batches(options: dict[str, Any], message: str) -> None:
    images, labels = pictures()
    with pytest.raises(ValueError, match=message):
        data.Batches(images, labels, **{"batch_size": 4, **options})


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
