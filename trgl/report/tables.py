"""A comparison as Markdown for people, CSV for spreadsheets, a dictionary for JSON."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from typing import Any

from trgl.metrics import Interval
from trgl.report.beside import beside, beside_dict, published_of
from trgl.report.cells import aligned, cell, ends, percent
from trgl.report.comparison import Comparison, MethodResult
from trgl.report.words import TRANSPORT_OF, describe, method_name, seeds_text


def main_table(comparison: Comparison) -> str:
    """Method, honest accuracy, its interval, the values per seed and the time of a run."""
    rows = [
        [
            "training",
            "test accuracy",
            "95 % interval",
            f"{seeds_text(comparison.seeds)}",
            "time per run",
        ]
    ]
    for result in comparison.methods:
        values = [
            percent(result.values[seed])[:-2]
            if seed in result.values
            else "failed"
            if seed in result.failed
            else "not run"
            for seed in comparison.seeds
        ]
        rows.append(
            [
                method_name(result.method, comparison.recipe),
                cell(result.last),
                ends(result.last) if result.last else "-",
                ", ".join(values),
                f"{result.seconds.mean:.0f} s" if result.seconds else "-",
            ]
        )
    return aligned(rows)


def difference_table(comparison: Comparison) -> str:
    """Paired differences, in percentage points."""
    rows = [["difference, same seeds", "percentage points", "95 % interval"]]
    rows += [
        [
            f"{difference.method} minus {difference.other}",
            f"{100 * difference.interval.mean:+.1f}",
            ends(difference.interval, signed=True),
        ]
        for difference in comparison.differences
    ]
    return aligned(rows)


def time_text(comparison: Comparison) -> str:
    """What the column of times means."""
    many = comparison.side_by_side
    beside = f"{many} runs side by side" if many > 1 else "one run at a time"
    return f"Time per run is wall-clock time, evaluation included, with {beside}."


def _optimistic(result: MethodResult) -> str:
    if result.optimistic is None or result.epochs_evaluated is None:
        return cell(result.optimistic)
    plural = "" if result.epochs_evaluated == 1 else "s"
    return f"{cell(result.optimistic)} of {result.epochs_evaluated} epoch{plural} evaluated"


def other_table(comparison: Comparison) -> str:
    """Depth, choice by validation, and the optimistic maximum."""
    rows = [
        [
            "method",
            "first module",
            "last module",
            "module chosen on validation images",
            "optimistic maximum (chosen on the test images)",
        ]
    ]
    for result in comparison.methods:
        first = next(iter(result.by_depth.values()), None)
        rows.append(
            [
                result.method,
                cell(first),
                cell(result.last),
                cell(result.best),
                _optimistic(result),
            ]
        )
    return aligned(rows)


def depth_table(comparison: Comparison) -> str:
    """Test accuracy of every module at the last epoch; empty without any."""
    shown = [result for result in comparison.methods if result.by_depth]
    if not shown:
        return ""
    rows = [["depth", *(result.method for result in shown)]]
    for depth in shown[0].by_depth:
        rows.append([str(depth), *(cell(result.by_depth.get(depth)) for result in shown)])
    return aligned(rows)


def preferred_text(comparison: Comparison) -> str:
    """In a sweep over tau with validation images, what these prefer; else empty."""
    swept = [one for one in comparison.methods if one.method.startswith(TRANSPORT_OF)]
    known = [(one.validation.mean, one.method) for one in swept if one.validation is not None]
    if len(known) < 2:
        return ""
    accuracy = max(known)[0]
    best = [one.removeprefix(TRANSPORT_OF) for mean, one in known if mean == accuracy]
    held = comparison.images.get("validation", 0)
    return (
        f"Of the values of tau the {held:,} validation images prefer {' and '.join(best)}: "
        f"{percent(accuracy)} of them are right in the last module after the last epoch."
    )


def to_markdown(comparison: Comparison) -> str:
    """The whole report in words and tables."""
    parts = [
        f"# {comparison.recipe['name']}: the same network, trained in "
        f"{_count(len(comparison.methods))}",
        describe(comparison),
        main_table(comparison),
        "Test accuracy is that of the last module after the last epoch, on the full test set: "
        f"nothing was chosen. {time_text(comparison)}",
    ]
    if comparison.differences:
        parts += [
            "Runs of one seed share their training images, initial weights, order and crops, so "
            "that differences are taken seed by seed:",
            difference_table(comparison),
        ]
    parts += [
        "Every module has a classifier, so that the network can stop at any depth. The last column "
        "is the largest test accuracy of any epoch that was evaluated and any module; it is too "
        "high, because it is chosen on the test images, and stands here only to be compared with "
        "papers that print it.",
        other_table(comparison),
    ]
    if depths := depth_table(comparison):
        parts += ["Test accuracy of every module after the last epoch:", depths]
    if preferred := preferred_text(comparison):
        parts.append(preferred)
    parts += beside(comparison)
    failures = [
        f"- {result.method}, seed {seed}: {reason}"
        for result in comparison.methods
        for seed, reason in result.failed.items()
    ]
    if failures:
        parts += ["These runs gave no figure:", "\n".join(failures)]
    return "\n\n".join(parts) + "\n"


def _count(number: int) -> str:
    words = {1: "one way", 2: "two ways", 3: "three ways"}
    return words.get(number, f"{number} ways")


_METRICS = ("last", "best", "validation", "optimistic", "seconds")
_LONG_NAMES = {
    "last": "last_module_last_epoch",
    "best": "best_module_by_validation",
    "validation": "last_module_validation",
    "optimistic": "optimistic_maximum_over_epochs_and_modules",
    "seconds": "seconds",
}


def to_csv(comparison: Comparison) -> str:
    """One row per method and figure, per depth, and per paired difference; fractions, not %."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["method", "figure", "depth", "mean", "low", "high", "seeds"])

    def row(method: str, figure: str, depth: int | str, interval: Interval) -> None:
        sides = [interval.low, interval.high]
        shown = ["" if math.isnan(side) else repr(side) for side in sides]
        count = interval.count or ""  # of published figures, whose runs are not always known
        writer.writerow([method, figure, depth, repr(interval.mean), *shown, count])

    for result in comparison.methods:
        for name in _METRICS:
            interval = getattr(result, name)
            if interval is not None:
                row(result.method, _LONG_NAMES[name], "", interval)
        for depth, interval in result.by_depth.items():
            row(result.method, "accuracy_last_epoch", depth, interval)
    if paper := comparison.published:
        for result in comparison.methods:
            value = published_of(comparison, result, paper)
            if value is not None:
                half = math.nan if value.half_width is None else value.half_width
                row(result.method, "published", "", Interval(value.mean, half, 0, 0.95))
    for difference in comparison.differences:
        name = f"{difference.method}-minus-{difference.other}"
        row(name, "last_module_last_epoch", "", difference.interval)
    return stream.getvalue()


def to_dict(comparison: Comparison) -> dict[str, Any]:
    """Everything, as values that JSON knows."""

    def interval(value: Interval | None) -> dict[str, Any] | None:
        if value is None:
            return None
        return {**dataclasses.asdict(value), "low": value.low, "high": value.high}

    def method(result: MethodResult) -> dict[str, Any]:
        return {
            "values": result.values,
            "failed": result.failed,
            "not_run": result.missing,
            "epochs_evaluated": result.epochs_evaluated,
            **{_LONG_NAMES[name]: interval(getattr(result, name)) for name in _METRICS},
            "by_depth": {depth: interval(value) for depth, value in result.by_depth.items()},
        }

    return {
        "recipe": dict(comparison.recipe),
        "dataset": comparison.dataset,
        "note": comparison.note,
        "images": dict(comparison.images),
        "seeds": comparison.seeds,
        "side_by_side": comparison.side_by_side,
        "published": beside_dict(comparison),
        "methods": {result.method: method(result) for result in comparison.methods},
        "differences": [
            {
                "method": difference.method,
                "minus": difference.other,
                "seeds": difference.seeds,
                "last_module_last_epoch": interval(difference.interval),
            }
            for difference in comparison.differences
        ],
    }
