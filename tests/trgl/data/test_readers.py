"""Images read from files: the same batches by any number of processes, and no process left."""

from __future__ import annotations

import os
import pickle
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_sets import write_folders, write_image
from torch import Tensor

from trgl import data
from trgl.data.readers import ReaderError, _Reader


@pytest.fixture
def images(tmp_path: Path) -> data.ImageData:
    write_folders(tmp_path, ("a", "b", "c"), train=7, size=(6, 9))
    return data.load("image-folder", tmp_path)


def files(images: data.ImageData) -> data.ImageFiles:
    assert isinstance(images.x_train, data.ImageFiles)
    return images.x_train


def in_memory(found: data.ImageFiles) -> Tensor:
    stored = [np.asarray(Image.open(path).convert("RGB")) for path in found.paths]
    return torch.from_numpy(np.stack(stored)).permute(0, 3, 1, 2).contiguous()


def processes() -> set[str]:
    """The children of this process."""
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize(
    ("padding", "flip"), [(2, True), (0, True), (3, False), (0, False)], ids=str
)
def test_batches_are_those_of_images_in_memory(
    images: data.ImageData, workers: int, padding: int, flip: bool
) -> None:
    def make(source: data.ImageFiles | Tensor) -> data.Batches:
        return data.Batches(
            source,
            images.y_train,
            4,
            shuffle=True,
            crop_padding=padding,
            flip=flip,
            seed=5,
            workers=workers,
        )

    memory, disk = make(in_memory(files(images))), make(files(images))
    assert (memory.mean, memory.std) == (disk.mean, disk.std)
    assert len(memory) == len(disk) == 5
    for first in (0, 0, 3):
        for (x, y), (u, v) in zip(memory.iterate(first), disk.iterate(first), strict=True):
            assert torch.equal(x, u)
            assert x.stride() == u.stride()  # the layout shapes a convolution's last digits
            assert torch.equal(y, v)


def test_parts_keep_their_files(images: data.ImageData) -> None:
    every = files(images)
    part = every[torch.tensor([4, 0])]
    assert part.paths == (every.paths[4], every.paths[0])
    assert part.shape == (2, 3, 6, 9)
    assert pickle.loads(pickle.dumps(part)) == part  # runs side by side get them so


def test_processes_are_shared_kept_and_ended(images: data.ImageData) -> None:
    before = processes()
    readers = data.Readers(2)
    one = data.Batches(
        files(images), images.y_train, 4, mean=[0.5] * 3, std=[1] * 3, workers=readers
    )
    other = data.Batches(
        files(images), images.y_train, 3, mean=[0.5] * 3, std=[1] * 3, workers=readers
    )
    assert processes() == before  # nothing is read yet
    list(one)
    hired = processes() - before
    assert len(hired) == 2
    list(other)
    list(one)
    assert processes() - before == hired
    alone = torch.cat([x for x, _ in one])
    pairs = list(zip(one, one, strict=True))  # two epochs at a time: each has processes of its own
    assert len(processes() - before) == 4
    for epoch in zip(*pairs, strict=True):
        assert torch.equal(torch.cat([x for x, _ in epoch]), alone)
    readers.close()
    assert processes() == before
    assert len(list(one)) == 6
    del one, other, readers
    assert processes() == before


def test_an_abandoned_epoch_leaves_nothing_for_the_next(images: data.ImageData) -> None:
    before = processes()
    batches = data.Batches(files(images), images.y_train, 4, shuffle=True, workers=2)
    epoch = iter(batches)
    next(epoch)
    del epoch
    assert processes() == before
    batches.set_epoch(0)
    expected = data.Batches(in_memory(files(images)), images.y_train, 4, shuffle=True)
    assert all(torch.equal(x, u) for (x, _), (u, _) in zip(batches, expected, strict=True))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("what", ["cut", "other", "gone", "size", "bomb"])
def test_a_damaged_file_is_named_when_it_is_met(
    images: data.ImageData, workers: int, what: str
) -> None:
    path = Path(files(images).paths[9])
    if what == "size":
        write_image(path, 0, (9, 6))
    elif what == "gone":
        path.unlink()
    elif what == "bomb":  # a header that announces more pixels than any image has
        raw = bytearray(path.read_bytes())
        raw[16:24] = b"\x00\x01\x00\x00\x00\x01\x00\x00"
        path.write_bytes(raw)
    else:
        path.write_bytes(path.read_bytes()[:60] if what == "cut" else b"text")
    batches = data.Batches(
        files(images), images.y_train, 4, mean=[0.5] * 3, std=[1] * 3, workers=workers
    )
    seen: list[Tensor] = []
    message = {
        "gone": "there is no such file",
        "size": "9x6 pixels, where the first image has 6x9; .*image_size",
    }.get(what, "no image that can be read")
    with pytest.raises(data.UnreadableImageError, match=message) as caught:
        seen.extend(x for x, _ in batches)
    assert len(seen) == 2
    assert str(caught.value).startswith(f"{path}: ")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    with pytest.raises(data.UnreadableImageError, match=message):
        data.channel_statistics(files(images), data.Readers(workers))


def test_a_killed_process_is_an_error(images: data.ImageData) -> None:
    before = processes()
    batches = data.Batches(files(images), images.y_train, 4, workers=1)
    list(batches)
    (reader,) = processes() - before
    os.kill(int(reader), signal.SIGKILL)
    with pytest.raises(ReaderError, match="exit code -9"):
        list(batches)
    assert len(list(batches)) == 6  # others are started


def test_names_of_any_bytes_are_read(tmp_path: Path) -> None:
    write_folders(tmp_path, ("a", "b"))
    strange = os.fsdecode('ü \n"'.encode() + b"\xff.png")
    os.rename(tmp_path / "train" / "b" / "0.png", tmp_path / "train" / "b" / strange)
    images = data.load("image-folder", tmp_path)
    for workers in (0, 1):
        assert len(list(data.Batches(files(images), images.y_train, 4, workers=workers))) == 3


@pytest.mark.parametrize("count", [-1, True, 1.5])
def test_wrong_counts_are_refused(count: Any) -> None:
    with pytest.raises(ValueError, match="workers must be a whole number of processes"):
        data.Readers(count)


def test_readers_end_when_the_other_end_of_their_socket_is_gone() -> None:
    """Which is what they see of a process that is killed."""
    readers = [_Reader(), _Reader()]
    for reader in readers:  # one after the other: no process holds another one's socket
        assert reader._process.poll() is None
        reader._socket.close()
        assert reader._process.wait(10) == 0
