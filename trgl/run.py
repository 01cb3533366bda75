"""One run: training that leaves its configuration, metrics and figures in a run directory."""

from __future__ import annotations

import contextlib
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import torch

import trgl_kernels
from trgl import own_code, rundir
from trgl.checkpoint import Checkpoints
from trgl.journal import Journal
from trgl.metrics import EpochRecord
from trgl.pace import Pace, Progress
from trgl.prepare import Prepared, threads
from trgl.recorded import memory_rows, results
from trgl.rundir import RunDirectory
from trgl.signals import Interrupts
from trgl.trainer import Stopped


def perform(
    prepared: Prepared,
    directory: RunDirectory,
    progress: Callable[[Progress], None] = lambda _: None,
    resume: bool = False,
) -> dict[str, Any]:
    """Train, and leave configuration, metrics, checkpoints and summary in the run directory.

    The first SIGINT or SIGTERM lets the step finish and the state be saved, and then does what it
    does outside, also where that step was the last one.

    Args:
        prepared: what to do; it can be performed once.
        directory: an open run directory.
        progress: called after each epoch; what it raises ends the run.
        resume: go on from the newest checkpoint, or begin anew where there is none.

    Returns:
        What ``summary.json`` holds.

    Raises:
        ValueError: a checkpoint that is another run's, or none that is whole; TensorBoard is wanted
            and not installed.
        trgl.DivergenceError: a loss that is not finite any more.
        OSError: the disk took no checkpoint or no metrics at the end.
    """
    task, trainer, loaders = prepared.task, prepared.trainer, prepared.loaders
    started, clock, earlier = time.time(), time.monotonic(), 0.0
    facts: dict[str, Any] = {
        "recipe": task.recipe.name,
        "method": task.method,
        "seed": task.seed,
        "dataset": prepared.images.name,
        "images": loaders.sizes,
        "modules": len(prepared.network),
        "parameters": sum(weight.numel() for weight in prepared.network.parameters()),
    }
    if task.variant:
        facts["variant"] = task.variant
    pace = Pace(
        task.label,
        trainer.phases,
        loaders.sizes["train"],
        len(loaders.train),
        trainer.device,
        loaders.sizes["test"] + loaders.sizes["validation"],
        trainer.evaluate_every,
    )
    identity = _identity(prepared)
    before: list[dict[str, Any]] = []  # of earlier parts of the run
    highest = 0  # of them, on a GPU

    def note() -> dict[str, Any]:
        seconds = earlier + time.monotonic() - clock
        return {
            **identity,
            "seconds": seconds,
            "memory": memory_rows(trainer, before),
            "gpu_peak_bytes": gpu_peak(task.device, highest),
        }

    def tell(text: str) -> None:
        progress(pace.note(text))

    def on_epoch(record: EpochRecord) -> None:
        journal.add(record)
        chosen = record.validation or record.test
        accuracy = chosen.accuracy[-1] if chosen else None
        on = "validation" if record.validation else "test"
        progress(pace.epoch(record.epoch, record.seconds, accuracy, on))

    def on_step(epoch: int, batch: int) -> None:
        step = pace.step(epoch, batch)
        if step is not None:
            progress(step)

    journal = Journal(directory, task.tensorboard, tell)
    checkpoints = Checkpoints(
        directory.path / rundir.CHECKPOINTS, task.save_every, task.keep, tell, note
    )
    found = None
    if resume:
        checkpoints.clean()
        found = checkpoints.load()
    if found is not None:
        _check_identity(found[0], found[1], identity)
        trainer.load_state_dict(found[1])
        noted = found[1]["note"]
        earlier, before = noted["seconds"], noted["memory"]
        highest = noted.get("gpu_peak_bytes") or 0
    else:
        if resume:
            tell(f"{checkpoints.folder} holds no checkpoint, so that the run begins anew.")
        directory.write_config(_config(prepared, started, identity["images"]))
    journal.begin(trainer.cursor.records, again=resume)
    pace.begin(trainer.cursor.epoch, trainer.cursor.batch)
    interrupts = Interrupts(trainer.stop)
    on_gpu = task.device.startswith("cuda")
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(task.device)
    try:
        with contextlib.closing(journal):
            with threads(task.threads), interrupts:
                history = trainer.fit(
                    loaders.train,
                    loaders.test,
                    loaders.validation,
                    on_epoch=on_epoch,
                    on_step=on_step,
                    checkpoints=checkpoints,
                    resume=found is not None,
                )
            journal.finish()
        if checkpoints.error is not None:
            raise OSError(checkpoints.trouble())
    except BaseException as error:
        stopped = isinstance(error, Stopped) or not isinstance(error, Exception)
        facts |= {
            "state": "interrupted" if stopped else "failed",
            "reason": f"{type(error).__name__}: {error}".rstrip(": "),
        }
        with contextlib.suppress(OSError):  # the error itself is what has to be told
            directory.write_json(
                rundir.SUMMARY, facts | {"seconds": earlier + time.monotonic() - clock}
            )
        if isinstance(error, Exception):
            interrupts.deliver()
        raise
    facts |= {"state": "done"} | results(history, whole=task.method == "end-to-end")
    facts["seconds"] = earlier + time.monotonic() - clock
    facts["training_seconds"] = sum(record.seconds for record in history.records)
    facts["memory"] = memory_rows(trainer, before)
    facts["epochs"] = len(history.records)
    facts["gpu_peak_bytes"] = gpu_peak(task.device, highest)
    directory.write_json(rundir.SUMMARY, facts)
    interrupts.deliver()
    return facts


def gpu_peak(device: str, earlier: int) -> int | None:
    """The most bytes that the run's tensors took on its GPU; None on a CPU.

    Args:
        device: of the run.
        earlier: the most in earlier parts of the run.
    """
    if not device.startswith("cuda"):
        return None
    return max(earlier, torch.cuda.max_memory_allocated(device))


def _identity(prepared: Prepared) -> dict[str, Any]:
    """What tells a run from others: a checkpoint of another one is not gone on with."""
    task = prepared.task
    return {
        "recipe": task.recipe.as_dict(),
        "method": task.method,
        "seed": task.seed,
        "images": prepared.images.digest(),
    }


def _check_identity(path: Path, state: dict[str, Any], identity: dict[str, Any]) -> None:
    note = state.get("note") or {}
    for key, value in identity.items():
        if note.get(key) == value:
            continue
        shown = ""
        if key == "recipe" and isinstance(note.get(key), dict):
            theirs = note[key]
            names = [name for name in value if theirs.get(name) != value[name]]
            shown = ": " + ", ".join(
                f"{name} {theirs.get(name)!r} there and {value[name]!r} here" for name in names
            )
        elif key == "images":
            raise ValueError(
                f"a run goes on with the images that it began with, but {path} was made with "
                f"others; put files that were added, removed or changed since back as they were."
            )
        else:
            shown = f": {note.get(key)!r} there and {value!r} here"
        raise ValueError(
            f"a run goes on from its own checkpoints, but {path} has other {key}{shown}; remove "
            f"it, or give the directory of the run that it belongs to."
        )


def _config(prepared: Prepared, started: float, digest: str) -> dict[str, Any]:
    task, images, loaders = prepared.task, prepared.images, prepared.loaders
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(started)),
        "command": sys.argv,
        "method": task.method,
        "seed": task.seed,
        "device": task.device,
        "threads": task.threads,
        "cache": rundir.from_anywhere(task.cache),
        "offload": task.offload,
        "tensorboard": task.tensorboard,
        "checkpoints": {"every": task.save_every, "keep": task.keep},
        "recipe": task.recipe.as_dict(),
        "sources": dict(task.recipe.sources),
        "own_code_sha256": own_code.digest(task.recipe.network),
        "data": {
            "name": images.name,
            "read_from": rundir.from_anywhere(task.data),
            "note": images.note,
            "digest": digest,
            "image_shape": list(images.input_shape),
            "classes": images.num_classes,
            "images": loaders.sizes,
            "mean": list(loaders.train.mean),
            "std": list(loaders.train.std),
        },
        **environment(task.device),
    }


def environment(device: str) -> dict[str, Any]:
    """What a figure may depend on besides its recipe: versions, machine, engines."""
    on_gpu = device.startswith("cuda")
    return {
        "versions": {
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "numpy": numpy.__version__,
            "platform": platform.platform(),
        },
        "gpu": {
            "name": torch.cuda.get_device_name(device),
            "cudnn": torch.backends.cudnn.version(),
            "convolutions_in_tf32": torch.backends.cudnn.allow_tf32,
            "products_in_tf32": torch.backends.cuda.matmul.allow_tf32,
        }
        if on_gpu
        else None,
        "engine": trgl_kernels.info(),
    }
