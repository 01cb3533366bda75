"""Samples of image files are those of the images in memory, and no other file is read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tiny_sets import write_image
from torch import Tensor

from trgl.data import Batches, UnreadableImageError, decode
from trgl.data.files import ImageFiles
from trgl.diagnose import draw

COUNT = 30
FIXED = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.25)}


class Counted:
    """A loader that knows how many samples it has, and how many batches were taken of it."""

    def __init__(self, batches: list[tuple[Tensor, Tensor]], samples: int) -> None:
        self.batches, self.samples, self.taken = batches, samples, 0

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in self.batches:
            self.taken += 1
            yield batch


@pytest.fixture
def files(tmp_path: Path) -> ImageFiles:
    paths = [str(tmp_path / f"{number}.png") for number in range(COUNT)]
    for number, path in enumerate(paths):
        write_image(Path(path), number, (5, 6))
    return ImageFiles.of(paths)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths of the files that were read, which grow while the test runs."""
    paths: list[str] = []
    original = decode.opened
    monkeypatch.setattr(decode, "opened", lambda path: paths.append(path) or original(path))
    return paths


def loader_of(files: ImageFiles, **options: object) -> Batches:
    return Batches(files, torch.arange(COUNT) % 4, 7, **FIXED, **options)


def test_only_the_files_that_were_drawn_are_read(files: ImageFiles, read: list[str]) -> None:
    loader = loader_of(files)
    everything = list(loader)
    for seed in range(3):
        expected, wanted = draw(everything, 10, seed)
        del read[:]
        images, labels = draw(loader, 10, seed)
        assert torch.equal(images, expected)
        assert torch.equal(labels, wanted)
        pixels = torch.cat([x for x, _ in everything])
        places = [int((pixels == image).flatten(1).all(1).nonzero()) for image in images]
        assert read == [files.paths[place] for place in places]
    assert torch.equal(draw(loader, 99, seed=0)[0], torch.cat([x for x, _ in everything]))


def test_a_damaged_file_that_was_not_drawn_is_not_missed(files: ImageFiles) -> None:
    loader = loader_of(files)
    drawn = draw(loader, 10, seed=0)[0]
    pixels = torch.cat([x for x, _ in loader])
    places = {int((pixels == image).flatten(1).all(1).nonzero()) for image in drawn}
    for place in set(range(COUNT)) - places:
        Path(files.paths[place]).write_bytes(b"damaged")
    assert torch.equal(draw(loader, 10, seed=0)[0], drawn)
    Path(files.paths[max(places)]).write_bytes(b"damaged")
    with pytest.raises(UnreadableImageError, match=r"\.png: no image"):
        draw(loader, 10, seed=0)


@pytest.mark.parametrize(
    "options",
    [{"shuffle": True}, {"crop_padding": 1, "flip": True}, {"drop_last": True}],
    ids=["shuffled", "augmented", "drop-last"],
)
def test_what_an_epoch_changes_is_drawn_from_the_epoch(
    files: ImageFiles, options: dict[str, object]
) -> None:
    loader = loader_of(files, **options)
    loader.set_epoch(3)
    expected = draw(Counted(list(loader), COUNT), 20, seed=1)
    loader.set_epoch(3)
    found = draw(loader, 20, seed=1)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])
    assert loader.epoch == 4


def test_no_loader_is_read_behind_the_last_sample() -> None:
    labels = torch.arange(100)
    loader = Counted(list(zip(labels.float().split(5), labels.split(5), strict=True)), 100)
    for seed in range(5):
        loader.taken = 0
        _, drawn = draw(loader, 3, seed)
        assert len(drawn) == 3
        assert loader.taken == int(drawn[-1]) // 5 + 1


def test_no_samples_are_refused(files: ImageFiles) -> None:
    with pytest.raises(ValueError, match="at least one sample has to be drawn, received 0"):
        draw(loader_of(files), 0, seed=0)
