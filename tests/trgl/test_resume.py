"""Stopping and going on: bit by bit the training that was never interrupted."""

from __future__ import annotations

import contextlib
import copy
import functools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from served import same
from small import CLASSES, SHAPE, batches, differing, network, sgd, state
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import trgl
from trgl.data import Batches
from trgl.feed import Loader

BATCHES = 3


class Drawn(Dataset[tuple[Tensor, Tensor]]):
    """Images that change at random whenever they are read."""

    def __init__(self, draw: Callable[[], float]) -> None:
        pairs = batches(BATCHES)
        self.images = torch.cat([images for images, _ in pairs])
        self.labels = torch.cat([labels for _, labels in pairs])
        self.draw = draw

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.images[index] + 0.1 * self.draw(), self.labels[index]


def from_three() -> float:
    return random.random() + float(numpy.random.rand()) + float(torch.rand(()))


def drawn(seeded: int | None = None, **options: Any) -> Callable[[], Loader]:
    def loader() -> Loader:
        generator = None if seeded is None else torch.Generator().manual_seed(seeded)
        return DataLoader(
            Drawn(from_three), batch_size=8, shuffle=True, generator=generator, **options
        )

    return loader


def shuffled() -> Loader:
    generator = torch.Generator().manual_seed(5)
    images = torch.randint(0, 256, (8 * BATCHES, *SHAPE), generator=generator).to(torch.uint8)
    labels = torch.arange(8 * BATCHES) % CLASSES
    return Batches(images, labels, 8, shuffle=True, crop_padding=1, flip=True, seed=3)


def dropped(seed: int = 0) -> trgl.GreedyNetwork:
    """With a head that draws."""

    def head(shape: Any, classes: int) -> nn.Module:
        return nn.Sequential(nn.Dropout(0.3), trgl.heads.linear(shape, classes))

    return network(seed=seed, head=head)


def trainer(**options: Any) -> trgl.Trainer:
    modules = copied(options.pop("network", network))
    common: dict[str, Any] = {"optimizer": sgd, "epochs": 2, "transport": trgl.Transport(0.5)}
    return trgl.Trainer(modules, **{**common, **options})


@functools.cache
def built(build: Callable[[], trgl.GreedyNetwork]) -> trgl.GreedyNetwork:
    return build()


def copied(build: Callable[[], trgl.GreedyNetwork]) -> trgl.GreedyNetwork:
    """A network as it was built, which takes longer than what these tests train."""
    return copy.deepcopy(built(build))


def seed_all() -> None:
    random.seed(1)
    numpy.random.seed(1)
    torch.manual_seed(1)


def without_times(history: trgl.History) -> list[dict[str, Any]]:
    return [{**record.as_dict(), "seconds": 0.0, "memory": 0} for record in history.records]


def adam(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=0.01, amsgrad=True)


def steps(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    return torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 2], 0.3)


def plateau(optimizer: torch.optim.Optimizer) -> Any:
    return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=0.5)


def cosine(optimizer: torch.optim.Optimizer) -> Any:
    warm = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=1)
    after = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 3)
    return torch.optim.lr_scheduler.SequentialLR(optimizer, [warm, after], [1])


CASES: dict[str, dict[str, Any]] = {
    "parallel": {},
    "parallel, uneven epochs": {"epochs": [1, 3, 2]},
    "sequential": {"regime": "sequential", "scheduler": steps},
    "multi-lap": {"regime": "multi-lap", "laps": 2, "scheduler": cosine},
    "end-to-end": {"regime": "end-to-end", "scheduler": plateau},
    "multipliers": {"transport": trgl.Multipliers(every=2)},
    "multipliers, multi-lap": {
        "transport": trgl.Multipliers(every=2), "regime": "multi-lap", "laps": 2
    },
    "AdamW": {"optimizer": adam},
    "accumulated": {"accumulate": 2, "clip_norm": 0.1},
    "accumulated, shared head": {
        "accumulate": 2, "network": lambda: network(shared_head=True), "transport": None
    },
    "float16 with loss scaling": {"autocast": torch.float16, "accumulate": 2},
    "frozen encoder, chunks": {
        "network": lambda: network(encoder="stem", freeze_encoder=True),
        "regime": "sequential", "chunk": 3,
    },
    "cache": {"regime": "sequential", "cache": "memory"},
    "trained encoder": {"network": lambda: network(encoder="stem")},
    "dropout": {"network": dropped},
    "local losses": {
        "network": lambda: network(2, local_loss=["similarity", "reconstruction"]), "accumulate": 2
    },
    "schedule, multi-lap": {
        "scheduler": trgl.Schedule(shape="cosine", warmup=1, minimum=0.01),
        "regime": "multi-lap", "laps": 2, "epochs": [2, 4, 2],
    },
    "post-activation": {"network": lambda: network(block="post-activation")},
}  # fmt: skip

LOADERS: dict[str, Callable[[], Loader]] = {
    "list": lambda: batches(BATCHES),
    "shuffled and augmented": shuffled,
    "DataLoader": drawn(),
    "DataLoader with a generator": drawn(seeded=4),
}


def stopped_everywhere(
    options: dict[str, Any], loader: Callable[[], Loader], path: Path, test: Loader | None
) -> int:
    """Trains, is stopped after every batch, and goes on in a new trainer each time."""
    count = 0
    while True:
        seed_all()  # a new process has other states than the one that was stopped
        random.random()
        torch.rand(2)
        one = trainer(**options)
        numbers: list[tuple[int, int]] = []

        def on_step(
            epoch: int, batch: int, one: trgl.Trainer = one, seen: list[Any] = numbers
        ) -> None:
            seen.append((epoch, batch))
            one.stop()

        resume: Any = path if path.exists() else False
        if not count:
            seed_all()
        with contextlib.suppress(trgl.Stopped):
            one.fit(loader(), test, on_step=on_step, resume=resume)
        one.save(path)
        if not numbers:
            return count
        count += 1
        assert len(numbers) == 1


@pytest.mark.parametrize("case", CASES)
def test_a_training_that_is_stopped_after_every_batch_is_the_one_that_is_not(
    tmp_path: Path, case: str
) -> None:
    check(tmp_path, CASES[case], LOADERS["list"])


@pytest.mark.parametrize("loader", list(LOADERS)[1:])
@pytest.mark.parametrize("case", ["parallel", "multi-lap", "dropout"])
def test_it_goes_on_with_the_batches_that_it_would_have_had(
    tmp_path: Path, case: str, loader: str
) -> None:
    check(tmp_path, CASES[case], LOADERS[loader])


def check(path: Path, options: dict[str, Any], loader: Callable[[], Loader]) -> None:
    test = batches(2, seed=9)
    whole = trainer(**options)
    seed_all()
    history = whole.fit(loader(), test)
    count = stopped_everywhere(options, loader, path / "state.pt", test)
    assert count == BATCHES * len(whole.phases)
    parts = trainer(**options)
    resumed = parts.fit(loader(), test, resume=path / "state.pt")
    assert without_times(resumed) == without_times(history)
    assert differing(state(parts.network), state(whole.network)) == []
    mine, theirs = parts.state_dict(), whole.state_dict()
    for key in ("optimizers", "schedulers", "weights", "scalers"):
        assert same(mine[key], theirs[key]), key


def test_a_new_training_leaves_the_checkpoints_of_another_alone(tmp_path: Path) -> None:
    folder, train = tmp_path / "checkpoints", batches(BATCHES)
    trainer().fit(train, checkpoints=trgl.Checkpoints(folder))
    there = [path.name for path in trgl.Checkpoints(folder).paths()]
    with pytest.raises(ValueError, match=r"step 0 and .*step-0000000006\.pt is of a later step"):
        trainer(epochs=1).fit(train, checkpoints=trgl.Checkpoints(folder))
    assert [path.name for path in trgl.Checkpoints(folder).paths()] == there
    with pytest.raises(ValueError, match=r"has epochs \(2 of modules .*\) where .* \(1 of modules"):
        trainer(epochs=1).fit(train, resume=folder)
    longer = trainer(epochs=3)
    longer.fit(train, checkpoints=trgl.Checkpoints(folder), resume=folder)
    assert trgl.Checkpoints(folder).paths()[0].name == "step-0000000009.pt"


@pytest.mark.parametrize(
    ("began", "goes_on", "words"),
    [
        (nn.CrossEntropyLoss(weight=torch.ones(CLASSES)), nn.CrossEntropyLoss(), "holds"),
        (nn.CrossEntropyLoss(), nn.CrossEntropyLoss(weight=torch.ones(CLASSES)), "holds"),
        (nn.CrossEntropyLoss(), nn.CrossEntropyLoss(label_smoothing=0.1), "criteria"),
        (nn.CrossEntropyLoss(), nn.functional.cross_entropy, "criteria"),
    ],
    ids=["weights gone", "weights new", "smoothing", "function"],
)
def test_another_criterion_is_refused_and_changes_nothing(
    began: Any, goes_on: Any, words: str
) -> None:
    first = trgl.Trainer(network(), optimizer=sgd, epochs=1, criterion=began)
    first.fit(batches(BATCHES))
    other = trgl.Trainer(network(seed=1), optimizer=sgd, epochs=1, criterion=goes_on)
    before = state(other.network)
    with pytest.raises(ValueError, match=words):
        other.load_state_dict(first.state_dict())
    assert not differing(state(other.network), before)
    same_one = trgl.Trainer(network(seed=1), optimizer=sgd, epochs=1, criterion=began)
    same_one.load_state_dict(first.state_dict())
    old = {**first.state_dict()}  # of a version that did not note it
    old["signature"] = {k: v for k, v in old["signature"].items() if k != "criteria"}
    same_one.load_state_dict(old)
