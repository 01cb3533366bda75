"""Progress on a terminal and in a log file."""

from __future__ import annotations

import io
import time

import pytest
import torch

from trgl.cli.progress import Display, describe
from trgl.pace import Pace, Progress
from trgl.regimes import Phase, schedule


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_sees_a_moving_line(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    screen = Terminal()
    display = Display(2, stream=screen)
    for epoch in range(1, 5):
        accuracy = 0.5 if epoch == 4 else None
        display.update(Progress("vanilla-seed0", epoch, 4, accuracy, share=epoch / 4))
    display.finished("vanilla, seed 0: 50.0 %")
    text = screen.getvalue()
    assert "\r\x1b[K[############............]  50 % 0:04 left  vanilla-seed0: epoch 4 of 4" in text
    assert text.endswith("\r\x1b[Krun 1 of 2, vanilla, seed 0: 50.0 %\n")


def test_a_log_file_sees_a_few_plain_lines() -> None:
    log = io.StringIO()
    display = Display(1, stream=log)
    for epoch in range(1, 201):
        display.update(Progress("vanilla-seed0", epoch, 200, 0.815, share=epoch / 200))
    assert log.getvalue().splitlines() == [
        f"vanilla-seed0: epoch {epoch} of 200, test accuracy 81.5 %"
        for epoch in (50, 100, 150, 200)
    ]


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


def phases(epochs: int) -> list[Phase]:
    return schedule("parallel", {1: epochs}, 1)


def test_an_evaluation_that_is_to_come_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    # 100 training images in 10 batches, 900 to evaluate: three epochs of training at first
    pace = Pace("run", phases(1), 100, 10, torch.device("cpu"), 900, 1)
    pace.begin(0, 0)
    clock.now += 1.0
    half = pace.step(1, 5)
    assert half is not None
    assert half.left == pytest.approx(7.0)
    assert half.share == pytest.approx(0.5 / 4)
    clock.now += 1.0
    done = pace.step(1, 10)
    assert done is not None
    assert done.evaluating
    assert done.left == pytest.approx(6.0)
    assert describe(done).startswith("run: epoch 0 of 1, evaluating, 0:06 left")
    clock.now += 50.0
    over = pace.epoch(1, 2.0, 0.35, "validation")
    assert (over.share, over.left, over.evaluating) == (1.0, 0.0, False)
    assert describe(over).startswith("run: epoch 1 of 1, validation accuracy 35.0 %, 0:00 left")


def test_an_evaluation_that_was_measured_counts_so(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    pace = Pace("run", phases(5), 100, 10, torch.device("cpu"), 300, 2)
    pace.begin(0, 0)
    clock.now += 1.9
    assert pace.step(1, 9) is not None
    clock.now += 0.1
    assert pace.step(1, 10) is None  # no evaluation follows
    pace.epoch(1, 2.0, None)
    clock.now += 2.0
    assert pace.step(2, 10) is not None
    clock.now += 8.0
    after = pace.epoch(2, 2.0, 0.5)
    assert after.accuracy_on == "test"
    # two epochs and one evaluation took 12 s; three and two are left: 6 s and 16 s
    assert after.left == pytest.approx(22.0)
    assert after.share == pytest.approx(12.0 / 34.0)
