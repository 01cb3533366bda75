"""A DataLoader with worker processes: it goes on bit by bit, and a worker that dies is told."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from small import batches, differing, network, sgd, state
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

import trgl
from trgl.checkpoint import Checkpoints


class Drawn(Dataset[tuple[Tensor, Tensor]]):
    """Images that change at random whenever they are read; one may kill the worker that reads it.

    Args:
        deadly: the worker that reads this image in the file's absence leaves the file and dies.
        mark: the file.
    """

    def __init__(self, mark: Path | None = None, deadly: int = -1) -> None:
        pairs = batches(3)
        self.images = torch.cat([images for images, _ in pairs])
        self.labels = torch.cat([labels for _, labels in pairs])
        self.mark, self.deadly = mark, deadly

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if self.mark is not None and index == self.deadly and get_worker_info() is not None:
            if self.mark.exists():
                os.kill(os.getpid(), signal.SIGKILL)
            self.mark.touch()  # it is read once in an epoch: the second one ends here
        noise = random.random() + float(numpy.random.rand()) + float(torch.rand(()))
        return self.images[index] + 0.1 * noise, self.labels[index]


def loader(data: Drawn) -> DataLoader[Any]:
    # forked ones: spawned ones would import everything again, and draw the same
    return DataLoader(data, 8, shuffle=True, num_workers=2, multiprocessing_context="fork")


def trainer() -> trgl.Trainer:
    torch.manual_seed(1)
    return trgl.Trainer(network(2, 2), optimizer=sgd, epochs=2, transport=trgl.Transport(0.5))


@pytest.fixture
def whole() -> dict[str, Tensor]:
    """The weights at the end of a training that nothing disturbed."""
    one = trainer()
    one.fit(loader(Drawn()))
    return state(one.network)


@pytest.mark.parametrize("stop", [(1, 2), (2, 1)])
def test_a_training_with_workers_goes_on_bit_by_bit(
    tmp_path: Path, whole: dict[str, Tensor], stop: tuple[int, int]
) -> None:
    one = trainer()
    with pytest.raises(trgl.Stopped):
        one.fit(
            loader(Drawn()),
            checkpoints=Checkpoints(tmp_path),
            on_step=lambda *place: one.stop() if place == stop else None,
        )
    torch.manual_seed(77)
    random.seed(77)
    numpy.random.seed(77)
    parts = trainer()
    parts.fit(loader(Drawn()), resume=tmp_path)
    assert differing(state(parts.network), whole) == []


def test_a_worker_that_dies_is_told_and_the_training_can_go_on(
    tmp_path: Path, whole: dict[str, Tensor]
) -> None:
    folder = tmp_path / "checkpoints"
    deadly = Drawn(tmp_path / "mark", 5)
    # which of torch's two messages comes depends on whether the signal or the queue is seen first
    told = r"DataLoader worker .* (killed by signal: Killed|exited unexpectedly)"
    with pytest.raises(RuntimeError, match=told):
        trainer().fit(loader(deadly), checkpoints=Checkpoints(folder, every="1"))
    assert Checkpoints(folder).paths()[0].name >= "step-0000000003.pt"
    parts = trainer()
    parts.fit(loader(Drawn()), resume=folder)
    assert differing(state(parts.network), whole) == []
