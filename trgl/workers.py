"""Many runs, a few at a time, each in a process of its own.

The result of a run depends on its task, its threads among them, and not on how many runs go on
beside it: every run seeds everything itself and writes into a directory of its own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from queue import Empty
from typing import Any

import torch

from trgl import rundir
from trgl.data import ImageData
from trgl.prepare import Prepared, Task, prepare
from trgl.report import compare, draw
from trgl.run import Progress, perform
from trgl.rundir import RunDirectory

Summary = dict[str, Any]
_POLL_SECONDS = 1.0
_PATIENCE_SECONDS = 5.0


@dataclass(frozen=True)
class Job:
    """A task and the directory of its run, which does not exist yet."""

    task: Task
    out: Path


def cores() -> int:
    """The CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def threads_per_run(asked: int, at_a_time: int) -> int:
    """Threads of one run: what was asked for, or (0) an equal share of the cores."""
    return asked or max(1, cores() // at_a_time)


def run_in(
    prepared: Prepared,
    directory: RunDirectory,
    progress: Callable[[Progress], None],
) -> Summary:
    """Perform a task and draw its picture.

    Raises:
        trgl.DivergenceError: as ``trgl.run.perform``.
    """
    summary = perform(prepared, directory, progress)
    task, images = prepared.task, prepared.images
    result = compare(task.recipe.as_dict(), [summary], dataset=images.name, note=images.note)
    directory.write(rundir.PICTURE, draw(result))
    return summary


def run_all(
    jobs: Sequence[Job],
    images: ImageData,
    at_a_time: int,
    progress: Callable[[Progress], None],
    done: Callable[[Job, Summary], None],
) -> list[Summary]:
    """Run all jobs; a run that fails, by diverging or for want of memory, does not stop the others.

    Args:
        jobs: what to run.
        images: the data set of all of them.
        at_a_time: runs side by side, at least 1; with 1 they run in this process.
        progress: called in this process for every epoch of every run.
        done: called in this process for every finished run.

    Returns:
        One summary per job, in the order of the jobs; that of a failed run has the state
        ``failed`` and a ``reason``.

    Raises:
        ValueError: wrong input, from whichever process met it.
        RuntimeError: a process that died without a word.
    """
    if at_a_time > 1 and len(jobs) > 1:
        return _in_processes(jobs, images, min(at_a_time, len(jobs)), progress, done)
    summaries = []
    for job in jobs:
        summaries.append(_attempt(job, images, progress))
        done(job, summaries[-1])
    return summaries


def _attempt(job: Job, images: ImageData, progress: Callable[[Progress], None]) -> Summary:
    prepared = prepare(job.task, images)
    with RunDirectory.create(job.out) as directory:
        try:
            return run_in(prepared, directory, progress)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            task = job.task
            return {
                "state": "failed",
                "reason": reason,
                "method": task.method,
                "seed": task.seed,
            }


def _in_processes(
    jobs: Sequence[Job],
    images: ImageData,
    at_a_time: int,
    progress: Callable[[Progress], None],
    done: Callable[[Job, Summary], None],
) -> list[Summary]:
    context = multiprocessing.get_context("spawn")
    tasks, news = context.SimpleQueue(), context.Queue()
    # NumPy arrays travel by value; tensors would need shared memory, which containers are short of.
    packed = {
        key: value.numpy() if isinstance(value, torch.Tensor) else value
        for key, value in (
            (field.name, getattr(images, field.name)) for field in dataclasses.fields(images)
        )
    }
    workers: list[BaseProcess] = [
        context.Process(target=_work, args=(tasks, news, packed), daemon=True)
        for _ in range(at_a_time)
    ]
    summaries: dict[int, Summary] = {}
    try:
        for worker in workers:
            worker.start()
        for index, job in enumerate(jobs):
            tasks.put((index, job))
        for _ in workers:
            tasks.put(None)
        while len(summaries) < len(jobs):
            message = _next_message(news, workers)
            if isinstance(message, Progress):
                progress(message)
            elif isinstance(message, BaseException):
                raise message
            else:
                index, summary = message
                summaries[index] = summary
                done(jobs[index], summary)
        for worker in workers:
            worker.join(_PATIENCE_SECONDS)
    finally:
        _stop(workers)
    return [summaries[index] for index in range(len(jobs))]


def _next_message(news: Any, workers: Sequence[BaseProcess]) -> Any:
    while True:
        with contextlib.suppress(Empty):
            return news.get(timeout=_POLL_SECONDS)
        dead = [worker.exitcode for worker in workers if worker.exitcode]
        if dead:
            with contextlib.suppress(Empty):
                return news.get(timeout=_POLL_SECONDS)
            raise RuntimeError(
                f"the process of a run ended with exit code {dead[0]} and said nothing; -9 mostly "
                "means that memory ran out: use fewer --jobs."
            )


def _stop(workers: Sequence[BaseProcess]) -> None:
    for worker in workers:
        if worker.pid is not None and worker.is_alive():
            worker.terminate()
    for worker in workers:
        if worker.pid is not None:
            worker.join(_PATIENCE_SECONDS)
            if worker.is_alive():
                worker.kill()
                worker.join()


def _work(tasks: Any, news: Any, packed: dict[str, Any]) -> None:
    """What a worker process does: one job after the other until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides, and terminates
    signal.signal(signal.SIGTERM, _leave)
    threading.Thread(target=_follow_parent, daemon=True).start()
    fields: dict[str, Any] = {
        key: torch.from_numpy(value) if hasattr(value, "dtype") else value
        for key, value in packed.items()
    }
    images = ImageData(**fields)
    try:
        while (item := tasks.get()) is not None:
            index, job = item
            news.put((index, _attempt(job, images, news.put)))
    except Exception as error:
        news.put(_portable(error))
    except SystemExit:
        news.cancel_join_thread()  # nobody listens any more
        raise


def _portable(error: Exception) -> Exception:
    """The error as a type that surely survives the way to the parent."""
    for kind in (ValueError, OSError):
        if isinstance(error, kind):
            return kind(str(error))
    return RuntimeError(f"{type(error).__name__}: {error}")


def _leave(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
