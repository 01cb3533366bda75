"""What a run writes down about its training, as JSON can hold it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trgl.metrics import EpochRecord, Evaluation, History
from trgl.trainer import Trainer


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
            "images_per_second": record.images / record.seconds if record.seconds > 0 else None,
            "memory_bytes": record.memory,
        }
        for name, evaluation in evaluations.items():
            seen = evaluation is not None and module in evaluation.modules
            place = evaluation.modules.index(module) if evaluation and seen else 0
            row[f"{name}_loss"] = evaluation.loss[place] if evaluation and seen else None
            row[f"{name}_accuracy"] = evaluation.accuracy[place] if evaluation and seen else None
        rows.append(row)
    return rows


def memory_rows(trainer: Trainer, before: Sequence[Mapping[str, Any]] = ()) -> list[dict[str, Any]]:
    """The peak of every module's steps, in bytes, as its boundary counted it.

    Args:
        trainer: that trained.
        before: rows of an earlier part of the run.

    A peak is None where nothing counts: without the compiled extension, and on CUDA where the
    process had a higher one before.
    """
    rows = []
    old = {row["module"]: row for row in before}
    for step in trainer.steps:
        counted = step.boundary.total
        earlier = old.get(step.number, {"steps": 0, "peak_bytes": None})
        peaks = [earlier["peak_bytes"], counted.peak if counted.allocated else None]
        rows.append(
            {
                "module": step.number,
                "parameters": sum(weight.numel() for weight in step.module.parameters()),
                "steps": earlier["steps"] + counted.steps,
                "peak_bytes": max((peak for peak in peaks if peak is not None), default=None),
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
