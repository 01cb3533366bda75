"""One run: training that leaves its configuration, metrics and figures in a run directory."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy
import torch

import trgl_kernels
from trgl import rundir
from trgl.metrics import EpochRecord, Evaluation, History
from trgl.prepare import Prepared, threads
from trgl.rundir import RunDirectory
from trgl.trainer import Trainer


@dataclass(frozen=True)
class Progress:
    """How far a run is: ``epoch`` of ``epochs``; accuracy of the last evaluation, if any."""

    label: str
    epoch: int
    epochs: int
    accuracy: float | None = None


def perform(
    prepared: Prepared,
    directory: RunDirectory,
    progress: Callable[[Progress], None] = lambda _: None,
) -> dict[str, Any]:
    """Train, and leave configuration, metrics and summary in the run directory.

    Args:
        prepared: what to do; it can be performed once.
        directory: an open run directory.
        progress: called after each epoch; what it raises ends the run.

    Returns:
        What ``summary.json`` holds.

    Raises:
        trgl.DivergenceError: a loss that is not finite any more.
    """
    task, trainer, loaders = prepared.task, prepared.trainer, prepared.loaders
    started, clock = time.time(), time.monotonic()
    facts: dict[str, Any] = {
        "recipe": task.recipe.name,
        "method": task.method,
        "seed": task.seed,
        "dataset": prepared.images.name,
        "images": loaders.sizes,
        "modules": len(prepared.network),
        "parameters": sum(weight.numel() for weight in prepared.network.parameters()),
    }
    directory.write_config(_config(prepared, started))

    def on_epoch(record: EpochRecord) -> None:
        directory.append_metrics(metric_rows(record))
        chosen = record.validation or record.test
        accuracy = chosen.accuracy[-1] if chosen else None
        progress(Progress(task.label, record.epoch, trainer.epochs_total, accuracy))

    try:
        with threads(task.threads):
            history = trainer.fit(
                loaders.train, loaders.test, loaders.validation, on_epoch=on_epoch
            )
    except BaseException as error:
        state = "failed" if isinstance(error, Exception) else "interrupted"
        facts |= {"state": state, "reason": f"{type(error).__name__}: {error}".rstrip(": ")}
        directory.write_json(rundir.SUMMARY, facts | {"seconds": time.monotonic() - clock})
        raise
    facts |= {"state": "done"} | results(history, whole=task.method == "end-to-end")
    facts["seconds"] = time.monotonic() - clock
    facts["training_seconds"] = sum(record.seconds for record in history.records)
    facts["memory"] = memory_rows(trainer)
    directory.write_json(rundir.SUMMARY, facts)
    return facts


def metric_rows(record: EpochRecord) -> list[dict[str, Any]]:
    """One flat object per module that was trained or evaluated in an epoch."""
    evaluations = {"validation": record.validation, "test": record.test}
    modules = set(record.trained)
    for evaluation in evaluations.values():
        modules.update(evaluation.modules if evaluation else ())
    rows = []
    for module in sorted(modules):
        row: dict[str, Any] = {
            "epoch": record.epoch,
            "lap": record.lap,
            "module": module,
            "train_loss": record.train_loss.get(module),
            "train_accuracy": record.train_accuracy.get(module),
            "transport_cost": record.cost.get(module),
            "transport_weight": record.weight.get(module),
            "learning_rate": record.learning_rate.get(module),
            "seconds": record.seconds,
        }
        for name, evaluation in evaluations.items():
            seen = evaluation is not None and module in evaluation.modules
            place = evaluation.modules.index(module) if evaluation and seen else 0
            row[f"{name}_loss"] = evaluation.loss[place] if evaluation and seen else None
            row[f"{name}_accuracy"] = evaluation.accuracy[place] if evaluation and seen else None
        rows.append(row)
    return rows


def memory_rows(trainer: Trainer) -> list[dict[str, Any]]:
    """The peak of every module's steps, in bytes, as its boundary counted it.

    A peak is None where nothing counts: without the compiled extension, and on CUDA where the
    process had a higher one before.
    """
    rows = []
    for step in trainer.steps:
        counted = step.boundary.total
        rows.append(
            {
                "module": step.number,
                "parameters": sum(weight.numel() for weight in step.module.parameters()),
                "steps": counted.steps,
                "peak_bytes": counted.peak if counted.allocated else None,
            }
        )
    return rows


def results(history: History, whole: bool) -> dict[str, Any]:
    """The figures of a finished run, each under a name that says how it was chosen.

    Args:
        history: what the trainer returned; it has a test set.
        whole: end-to-end training, which has a single trained classifier.
    """
    final: Evaluation = history.final
    depths = {} if whole else {str(k): a for k, a in history.by_depth().items() if k > 0}
    best = None
    if history.records[-1].validation is not None and not whole:
        module, accuracy = history.best_module()
        best = {"module": module, "accuracy": accuracy}
    validation = history.records[-1].validation
    return {
        "accuracy": {
            "last_module_last_epoch": final.accuracy[-1],
            "best_module_by_validation": best,
            "optimistic_maximum_over_epochs_and_modules": history.optimistic_maximum(),
            "optimistic_maximum_over_epochs_of_last_module": history.optimistic_maximum(last=True),
            "last_module_validation": validation.accuracy[-1] if validation else None,
            "by_depth": depths,
        },
        "loss": {"last_module_last_epoch": final.loss[-1]},
        "epochs_evaluated": sum(record.test is not None for record in history.records),
    }


def _config(prepared: Prepared, started: float) -> dict[str, Any]:
    task, images, loaders = prepared.task, prepared.images, prepared.loaders
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(started)),
        "command": sys.argv,
        "method": task.method,
        "seed": task.seed,
        "device": task.device,
        "threads": task.threads,
        "cache": task.cache,
        "offload": task.offload,
        "recipe": task.recipe.as_dict(),
        "sources": dict(task.recipe.sources),
        "data": {
            "name": images.name,
            "read_from": task.data,
            "note": images.note,
            "image_shape": list(images.input_shape),
            "classes": images.num_classes,
            "images": loaders.sizes,
            "mean": list(loaders.train.mean),
            "std": list(loaders.train.std),
        },
        **environment(),
    }


def environment() -> dict[str, Any]:
    """What a figure may depend on besides its recipe: versions, machine, engines."""
    return {
        "versions": {
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "numpy": numpy.__version__,
            "platform": platform.platform(),
        },
        "engine": trgl_kernels.info(),
    }
