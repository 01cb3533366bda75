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
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from trgl import own_code, rundir
from trgl.data import ImageData
from trgl.durable import write_atomically
from trgl.pace import Progress
from trgl.prepare import Prepared, Task, prepare
from trgl.processes import PATIENCE_SECONDS, follow_parent, interrupts_held, leave, stop
from trgl.report import compare, draw
from trgl.restore import has_checkpoint
from trgl.run import perform
from trgl.rundir import RunDirectory
from trgl.strict_json import to_json

Summary = dict[str, Any]
_MOST_THREADS = 1024


@dataclass(frozen=True)
class Job:
    """A task and the directory of its run.

    Attributes:
        task: what to do.
        out: the directory, which does not exist yet.
        resume: unless it is that of an earlier part of the run, which goes on.
    """

    task: Task
    out: Path
    resume: bool = False


def cores() -> int:
    """The CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def threads_per_run(asked: int, at_a_time: int) -> int:
    """Threads of one run: what was asked for, or (0) an equal share of the cores.

    Raises:
        ValueError: so many that the system could refuse to start them, which ends the process.
    """
    if asked > _MOST_THREADS:
        raise ValueError(
            f"threads must be at most {_MOST_THREADS:,}, received {asked:,}; this machine has "
            f"{cores()} cores: take as many, or 0 for an equal share of them."
        )
    return asked or max(1, cores() // at_a_time)


def run_in(
    prepared: Prepared,
    directory: RunDirectory,
    progress: Callable[[Progress], None],
    resume: bool = False,
) -> Summary:
    """Perform a task and draw its picture.

    Args:
        prepared, directory, progress, resume: as for ``trgl.run.perform``.

    Raises:
        trgl.DivergenceError: as ``trgl.run.perform``.
    """
    summary = perform(prepared, directory, progress, resume)
    draw_run(prepared.task, prepared.images, summary, directory)
    return summary


def draw_run(task: Task, images: ImageData, summary: Summary, directory: RunDirectory) -> None:
    """Draw the picture of one run into its directory."""
    result = compare(task.recipe.as_dict(), [summary], dataset=images.name, note=images.note)
    directory.write(rundir.PICTURE, draw(result))


def run_all(
    jobs: Sequence[Job],
    images: ImageData,
    at_a_time: int,
    progress: Callable[[Progress], None],
    done: Callable[[Job, Summary], None],
) -> list[Summary]:
    """Run all jobs; a run that fails, for whatever reason, does not stop the others.

    Args:
        jobs: what to run.
        images: the data set of all of them.
        at_a_time: runs side by side, at least 1; with 1 they run in this process.
        progress: called in this process for every epoch of every run.
        done: called in this process for every finished run.

    Returns:
        One summary per job, in the order of the jobs; that of a failed run has the state
        ``failed``, a ``reason`` and, unless its process was killed, a ``traceback``.
    """
    if at_a_time > 1 and len(jobs) > 1:
        return _in_processes(jobs, images, min(at_a_time, len(jobs)), progress, done)
    summaries = []
    for job in jobs:
        summaries.append(_attempt(job, images, progress))
        done(job, summaries[-1])
    return summaries


def _attempt(job: Job, images: ImageData, progress: Callable[[Progress], None]) -> Summary:
    try:
        resume = job.resume and rundir.is_run_directory(job.out)
        prepared = prepare(job.task, images, trained=resume and has_checkpoint(job.out))
        opened = RunDirectory.open(job.out) if resume else RunDirectory.create(job.out)
        with opened as directory:
            return run_in(prepared, directory, progress, resume)
    except BrokenPipeError:
        raise  # nobody is there who could be told of a failure
    except Exception as error:
        plain = isinstance(error, (ValueError, OSError, RuntimeError)) and str(error)
        reason = str(error) if plain else own_code.told(error)
        return _failed(job, reason) | {"traceback": traceback.format_exc()}


def _failed(job: Job, reason: str) -> Summary:
    task = job.task
    return {
        "state": "failed",
        "reason": " ".join(reason.split()),
        "method": task.method,
        "seed": task.seed,
        **({"variant": task.variant} if task.variant else {}),
    }


@dataclass
class _Worker:
    """A process, our end of the pipe to it, and the index of the job that it has."""

    process: BaseProcess
    pipe: Any
    job: int


def _in_processes(
    jobs: Sequence[Job],
    images: ImageData,
    at_a_time: int,
    progress: Callable[[Progress], None],
    done: Callable[[Job, Summary], None],
) -> list[Summary]:
    context = multiprocessing.get_context("spawn")
    # NumPy arrays travel by value; tensors would need shared memory, which containers are short of.
    packed = {
        key: value.numpy() if isinstance(value, torch.Tensor) else value
        for key, value in (
            (field.name, getattr(images, field.name)) for field in dataclasses.fields(images)
        )
    }
    waiting = deque(range(len(jobs)))
    summaries: dict[int, Summary] = {}
    busy: dict[Any, _Worker] = {}  # by pipe
    processes: list[BaseProcess] = []

    def hire() -> None:
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, packed), daemon=True)
        processes.append(process)
        with interrupts_held():
            process.start()
        theirs.close()  # now the end of the process is the end of the file
        busy[ours] = _Worker(process, ours, -1)
        employ(busy[ours])

    def employ(worker: _Worker) -> None:
        worker.job = waiting.popleft()
        with contextlib.suppress(ConnectionError):  # it died: the end of its file says so
            worker.pipe.send(jobs[worker.job])

    def finish(worker: _Worker, summary: Summary) -> None:
        summaries[worker.job] = summary
        done(jobs[worker.job], summary)

    def dismiss(worker: _Worker) -> None:
        del busy[worker.pipe]
        worker.pipe.close()

    try:
        for _ in range(at_a_time):
            hire()
        while busy:
            for pipe in wait(list(busy)):
                worker = busy[pipe]
                try:
                    message = worker.pipe.recv()
                except (EOFError, ConnectionError):
                    dismiss(worker)
                    worker.process.join()
                    finish(worker, _killed(jobs[worker.job], worker.process.exitcode))
                    if waiting:
                        hire()
                    continue
                if isinstance(message, Progress):
                    progress(message)
                    continue
                finish(worker, message)
                if waiting:
                    employ(worker)
                else:
                    dismiss(worker)  # the end of its file sends it home
        for process in processes:
            process.join(PATIENCE_SECONDS)
    finally:
        stop(processes)
    return [summaries[index] for index in range(len(jobs))]


def _killed(job: Job, code: int | None) -> Summary:
    summary = _failed(
        job,
        f"the process of the run ended with exit code {code} and said nothing; -9 mostly means "
        "that memory ran out: use fewer --jobs.",
    )
    if rundir.is_run_directory(job.out):  # else a run that begins anew would find it taken
        text = to_json(summary) + "\n"
        write_atomically(job.out / rundir.SUMMARY, text.encode())
    return summary


def _work(pipe: Any, packed: dict[str, Any]) -> None:
    """What a worker process does: one job after the other until there are no more."""
    signal.signal(signal.SIGTERM, leave)
    threading.Thread(target=follow_parent, daemon=True).start()
    fields: dict[str, Any] = {
        key: torch.from_numpy(value) if hasattr(value, "dtype") else value
        for key, value in packed.items()
    }
    images = ImageData(**fields)
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            job = pipe.recv()
            pipe.send(_attempt(job, images, pipe.send))
