"""Runs side by side: the same figures, no run lost, no process left."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from small_runs import few_digits, without_times

from trgl import recipes, rundir
from trgl.data import ImageData
from trgl.pace import Progress
from trgl.prepare import Task
from trgl.recipes import Recipe
from trgl.workers import Job, _killed, cores, run_all, threads_per_run


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return few_digits(60)


def small(**changes: Any) -> Recipe:
    tiny = {"modules": 2, "filters": 4, "epochs": 3, "evaluate_every": 1, "train_size": 20}
    return recipes.find("digits-20x1").override({**tiny, **changes})


def work(path: Path, recipe: Recipe) -> list[Job]:
    return [
        Job(Task(recipe, method, seed), path / f"{method}-seed{seed}")
        for seed in (0, 1)
        for method in ("vanilla", "transport")
    ]


def run(path: Path, images: ImageData, at_a_time: int, recipe: Recipe) -> list[dict[str, Any]]:
    jobs = work(path, recipe)
    finished: list[str] = []
    told: list[Progress] = []
    summaries = run_all(
        jobs, images, at_a_time, told.append, lambda job, summary: finished.append(job.task.label)
    )
    assert sorted(finished) == sorted(job.task.label for job in jobs)
    assert {step.label for step in told} == set(finished)
    return summaries


def test_figures_do_not_depend_on_the_number_of_jobs(tmp_path: Path, digits: ImageData) -> None:
    one = run(tmp_path / "one", digits, 1, small())
    two = run(tmp_path / "two", digits, 2, small())
    assert [s["method"] for s in one] == [s["method"] for s in two]
    assert [s["accuracy"] for s in one] == [s["accuracy"] for s in two]
    for job in work(Path(), small()):
        assert without_times(tmp_path / "one" / job.out) == without_times(
            tmp_path / "two" / job.out
        )
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("at_a_time", [1, 2])
def test_a_diverging_run_is_a_result_of_its_own(
    tmp_path: Path, digits: ImageData, at_a_time: int
) -> None:
    summaries = run(tmp_path, digits, at_a_time, small(learning_rate=1e30))
    assert [summary["state"] for summary in summaries] == ["failed"] * 4
    assert all("diverged" in summary["reason"] for summary in summaries)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("at_a_time", [1, 2])
def test_a_run_that_cannot_start_does_not_stop_the_others(
    tmp_path: Path, digits: ImageData, at_a_time: int
) -> None:
    jobs = [
        Job(Task(small(train_size=size), "vanilla", 0), tmp_path / str(size)) for size in (5, 20, 6)
    ]
    summaries = run_all(jobs, digits, at_a_time, lambda step: None, lambda job, summary: None)
    assert [summary["state"] for summary in summaries] == ["failed", "done", "failed"]
    assert "--train-size 5:" in summaries[0]["reason"]
    assert "Traceback (most recent call last)" in summaries[0]["traceback"]
    assert "make_loaders" in summaries[0]["traceback"]
    assert not multiprocessing.active_children()


def test_a_killed_process_is_noticed_and_the_others_go_on(
    tmp_path: Path, digits: ImageData
) -> None:
    killed: list[str] = []

    def kill(progress: Progress) -> None:
        if not killed and progress.epoch:  # its metrics are there
            killed.append(progress.label)
            owner = next(tmp_path.glob(f"{progress.label}/{rundir.METRICS}")).parent
            for child in multiprocessing.active_children():
                handles = Path(f"/proc/{child.pid}/fd").iterdir()
                if any(os.path.realpath(handle) == str(owner) for handle in handles):
                    assert child.pid is not None
                    os.kill(child.pid, signal.SIGKILL)

    jobs = work(tmp_path, small(epochs=150))
    summaries = run_all(jobs, digits, 2, kill, lambda job, summary: None)
    for job, summary in zip(jobs, summaries, strict=True):
        if job.task.label in killed:
            assert summary["state"] == "failed"
            assert "exit code -9" in summary["reason"]
            assert json.loads((job.out / rundir.SUMMARY).read_text()) == summary
        else:
            assert summary["state"] == "done"
    assert len(killed) == 1
    assert not multiprocessing.active_children()


def test_a_process_that_was_killed_before_its_run_began_leaves_room_for_it(tmp_path: Path) -> None:
    job = Job(Task(small(), "vanilla", 0), tmp_path / "run")
    job.out.mkdir()
    assert "exit code -9" in _killed(job, -9)["reason"]
    with rundir.RunDirectory.create(job.out) as directory:
        assert directory.path == job.out


def test_threads_are_shared_unless_asked_for() -> None:
    assert threads_per_run(3, 2) == 3
    assert threads_per_run(0, 1) == cores()
    assert threads_per_run(0, 10_000) == 1
