"""Interrupts that let a run finish its step, wherever they come."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from small_runs import few_digits

from trgl import recipes, rundir
from trgl.pace import Progress
from trgl.prepare import Task, prepare
from trgl.run import perform
from trgl.rundir import RunDirectory
from trgl.signals import Interrupts


@pytest.fixture(autouse=True)
def python_answers() -> Iterator[None]:
    """Whoever runs the tests may have another handler, or none."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupted_in(epoch: int) -> Callable[[Progress], None]:
    def progress(one: Progress) -> None:
        if one.epoch == epoch and not one.part:
            os.kill(os.getpid(), signal.SIGINT)

    return progress


@pytest.mark.parametrize(("epoch", "state"), [(1, "interrupted"), (3, "done")])
def test_an_interrupt_of_a_run_does_in_the_end_what_it_does_outside(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], epoch: int, state: str
) -> None:
    tiny: dict[str, Any] = {"modules": 2, "filters": 4, "epochs": 3, "train_size": 30}
    recipe = recipes.find("digits-20x1").override(tiny)
    prepared = prepare(Task(recipe, "vanilla", 0), few_digits(30))
    with (
        RunDirectory.create(tmp_path / "run") as directory,
        pytest.raises(KeyboardInterrupt),
    ):
        perform(prepared, directory, interrupted_in(epoch))
    assert json.loads((tmp_path / "run" / rundir.SUMMARY).read_text())["state"] == state
    assert capfd.readouterr().err.count("finishing the step") == 1
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_second_one_stops_at_once() -> None:
    asked: list[int] = []
    with Interrupts(lambda: asked.append(1), tell=False):
        signal.raise_signal(signal.SIGINT)
        assert asked == [1]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert asked == [1]


def test_what_nobody_wants_to_hear_of_stays_unheard() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asked: list[int] = []
    interrupts = Interrupts(lambda: asked.append(1), tell=False)
    with interrupts:
        signal.raise_signal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    interrupts.deliver()
    assert asked == []
