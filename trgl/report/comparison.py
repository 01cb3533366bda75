"""From the summaries of runs to means, intervals and paired differences over seeds."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trgl.metrics import Interval, mean_interval, paired_interval
from trgl.recipes import METHODS
from trgl.recipes.published import Published, row_of

Summary = Mapping[str, Any]


@dataclass(frozen=True)
class MethodResult:
    """One method over its seeds; accuracies are fractions.

    Attributes:
        method: a key of ``trgl.recipes.METHODS``, or in a sweep over tau ``transport-tau0.5``.
        values: seed to test accuracy of the last module at the last epoch.
        failed: seed to the reason why there is no figure.
        missing: seeds that were asked for and not run to the end.
        last: interval of ``values``.
        best: of the module chosen on validation images at the last epoch; None without them.
        validation: of the last module on the validation images; None without them.
        optimistic: of the maximum over epochs and modules of the test accuracy.
        optimistic_last: the same of the last module; None where it was not recorded.
        epochs_evaluated: over how many epochs that maximum goes; None where it is not known.
        by_depth: interval at each depth from 1; empty for end-to-end training.
        seconds: wall-clock time of a run, evaluation included.
        epoch_seconds: wall-clock time of an epoch's training; None where it was not recorded.
        gpu_peak: bytes that PyTorch had allocated on a GPU at a time; None on the CPU.
    """

    method: str
    values: dict[int, float]
    failed: dict[int, str]
    missing: list[int]
    last: Interval | None
    best: Interval | None
    validation: Interval | None
    optimistic: Interval | None
    optimistic_last: Interval | None
    epochs_evaluated: int | None
    by_depth: dict[int, Interval]
    seconds: Interval | None
    epoch_seconds: Interval | None
    gpu_peak: Interval | None


@dataclass(frozen=True)
class Difference:
    """Mean of ``method`` minus ``other`` over the seeds that both have."""

    method: str
    other: str
    seeds: list[int]
    interval: Interval


@dataclass(frozen=True)
class Comparison:
    """Several methods on one recipe, one data set and the same seeds.

    Attributes:
        recipe: the recipe's fields.
        dataset: name of the data set.
        note: one sentence about it.
        images: number of training, validation and test images.
        seeds: all seeds that were asked for.
        methods: in the order that was asked for.
        differences: of every two methods that share a seed.
        side_by_side: runs that shared the machine, which is to be known for their times.
        memory: bytes that a step needs at most, weights and optimizer state included, predicted,
            by method; empty where nothing was predicted.
    """

    recipe: Mapping[str, Any]
    dataset: str
    note: str
    images: Mapping[str, int]
    seeds: list[int]
    methods: list[MethodResult]
    differences: list[Difference] = field(default_factory=list)
    side_by_side: int = 1
    memory: Mapping[str, int] = field(default_factory=dict)

    @property
    def published(self) -> Published | None:
        """The published row that belongs beside this recipe, if there is one."""
        return row_of(self.recipe)

    @property
    def modules(self) -> int:
        """The number of modules K."""
        return int(self.recipe["modules"])

    @property
    def missing(self) -> int:
        """The number of runs that were asked for and not run to the end."""
        return sum(len(result.missing) for result in self.methods)

    def result(self, method: str) -> MethodResult:
        """The result of a method by name."""
        return next(result for result in self.methods if result.method == method)


def compare(
    recipe: Mapping[str, Any],
    summaries: Sequence[Summary],
    *,
    dataset: str,
    note: str = "",
    seeds: Sequence[int] | None = None,
    methods: Sequence[str] | None = None,
    side_by_side: int = 1,
    memory: Mapping[str, int] | None = None,
) -> Comparison:
    """Collect the summaries of runs that differ in method and seed only.

    Args:
        recipe: ``Recipe.as_dict()`` of all of them.
        summaries: what ``trgl.run.perform`` returned, or an entry with ``state`` other than
            ``done`` and a ``reason``.
        dataset: name of the data set.
        note: one sentence about it.
        seeds: all that were asked for; None takes those of the summaries.
        methods: all that were asked for, in order; None takes those of the summaries.
        side_by_side: runs that shared the machine.
        memory: bytes, predicted, by method.

    Raises:
        ValueError: no summaries.
    """
    if not summaries:
        raise ValueError("a comparison needs at least one run, received none; run some first.")
    methods = methods or list(dict.fromkeys(map(_kind, summaries)))
    seeds = sorted(seeds or {int(summary["seed"]) for summary in summaries})
    results = [_result(method, summaries, seeds) for method in methods]
    done = [summary for summary in summaries if "images" in summary]
    differences = []
    pairs = list(itertools.combinations(results, 2))
    if len(results) > len(METHODS):  # a sweep: every one against the first
        pairs = [(results[0], other) for other in results[1:]]
    for first, second in pairs:
        shared = [seed for seed in first.values if seed in second.values]
        if shared:
            high, low = [second.values[s] for s in shared], [first.values[s] for s in shared]
            interval = paired_interval(high, low)
            differences.append(Difference(second.method, first.method, shared, interval))
    return Comparison(
        recipe,
        dataset,
        note,
        done[0]["images"] if done else {},
        list(seeds),
        results,
        differences,
        side_by_side,
        memory or {},
    )


def _kind(summary: Summary) -> str:
    return str(summary.get("variant", summary["method"]))


def _result(method: str, summaries: Sequence[Summary], seeds: Sequence[int]) -> MethodResult:
    mine = sorted(
        (summary for summary in summaries if _kind(summary) == method),
        key=lambda summary: int(summary["seed"]),
    )
    done = [summary for summary in mine if summary["state"] == "done"]
    ended = {int(summary["seed"]) for summary in mine}
    accuracies = [summary["accuracy"] for summary in done]
    evaluated = [summary["epochs_evaluated"] for summary in done if "epochs_evaluated" in summary]

    def interval(values: Sequence[float | None]) -> Interval | None:
        known = [value for value in values if value is not None]
        return mean_interval(known) if known and len(known) == len(values) else None

    chosen = [accuracy["best_module_by_validation"] for accuracy in accuracies]
    depths = list(accuracies[0]["by_depth"]) if accuracies else []
    return MethodResult(
        method=method,
        values={int(s["seed"]): float(s["accuracy"]["last_module_last_epoch"]) for s in done},
        failed={int(s["seed"]): str(s.get("reason", "")) for s in mine if s["state"] != "done"},
        missing=[seed for seed in seeds if seed not in ended],
        last=interval([accuracy["last_module_last_epoch"] for accuracy in accuracies]),
        best=interval([best["accuracy"] if best else None for best in chosen]),
        validation=interval([accuracy["last_module_validation"] for accuracy in accuracies]),
        optimistic=interval([a["optimistic_maximum_over_epochs_and_modules"] for a in accuracies]),
        optimistic_last=interval(
            [a.get("optimistic_maximum_over_epochs_of_last_module") for a in accuracies]
        ),
        epochs_evaluated=max(evaluated, default=None),
        by_depth={
            int(depth): mean_interval([accuracy["by_depth"][depth] for accuracy in accuracies])
            for depth in depths
        },
        seconds=interval([summary["seconds"] for summary in done]),
        epoch_seconds=interval(
            [s["training_seconds"] / s["epochs"] if "epochs" in s else None for s in done]
        ),
        gpu_peak=interval([summary.get("gpu_peak_bytes") for summary in done]),
    )
