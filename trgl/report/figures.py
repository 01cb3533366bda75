"""The figures of a report: accuracy, loss, transport cost, weights, memory and time of runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from trgl.metrics import Interval, mean_interval
from trgl.report.chart import Chart, Figure, Series
from trgl.report.groups import Group
from trgl.report.lines import (
    POINTS_AT_MOST,
    band_words,
    interval_series,
    seconds_text,
    some,
    styles,
    unfinished,
    with_interval,
)
from trgl.report.module_curves import by_module

_MIB = 2**20


def figures(groups: Sequence[Group]) -> list[Figure]:
    """All figures for which the runs recorded something, in the order of the page."""
    made = [
        accuracy_by_depth(groups),
        accuracy_by_epoch(groups),
        by_module(groups, "train_loss"),
        by_module(groups, "transport_cost"),
        by_module(groups, "transport_weight"),
        memory(groups),
        epoch_time(groups),
    ]
    return [figure for figure in made if figure is not None]


def accuracy_by_depth(groups: Sequence[Group]) -> Figure | None:
    """Test accuracy of every module at the last epoch."""
    series, columns = [], []
    for group, style in zip(groups, styles(groups), strict=True):
        result = group.result
        if result.last is None:
            continue
        depths = result.by_depth or {group.modules: result.last}
        level = not result.by_depth
        series.append(interval_series(group.label, depths, style, 100, level))
        columns.append((group.label, depths))
    if not series:
        return None
    # a line across the chart needs something to cross
    if all(one.level for one in series):
        series = [_as_points(one) for one in series]
    places = sorted({depth for _, depths in columns for depth in depths})
    rows = [
        (str(depth), *(with_interval(depths.get(depth)) for _, depths in columns))
        for depth in places
    ]
    whole = any(group.whole and group.result.last for group in groups)
    return Figure(
        "accuracy-by-depth",
        "Accuracy at every depth",
        "Test accuracy after the last epoch of the classifier behind each module; the network can "
        "stop at any of them."
        + (" End-to-end training has one classifier, at full depth: a line." if whole else "")
        + band_words(groups),
        (
            Chart(
                "",
                "depth: modules passed",
                "test accuracy in %",
                tuple(series),
                least=10,
                bounds=(0, 100),
            ),
        ),
        ("depth", *(label for label, _ in columns)),
        tuple(rows),
    )


def _as_points(series: Series) -> Series:
    return replace(series, level=False, dashed=False)


def accuracy_by_epoch(groups: Sequence[Group]) -> Figure | None:
    """Test accuracy of the last module over the run."""
    series, columns = [], []
    for group, style in zip(groups, styles(groups), strict=True):
        curves = group.curves("test_accuracy")
        if curves:
            values = curves[max(curves)]
            series.append(interval_series(group.label, values, style, 100, dashed=group.whole))
            columns.append((group.label, values))
    if not series:
        return None
    places = some(sorted({epoch for _, values in columns for epoch in values}), 12)
    return Figure(
        "accuracy-by-epoch",
        "Accuracy of the last module by epoch",
        "Test accuracy where the run was evaluated." + band_words(groups),
        (Chart("", "epoch", "test accuracy in %", tuple(series), least=10, bounds=(0, 100)),),
        ("epoch", *(label for label, _ in columns)),
        tuple(
            (str(epoch), *(with_interval(values.get(epoch)) for _, values in columns))
            for epoch in places
        ),
        note=unfinished(groups),
    )


def memory(groups: Sequence[Group]) -> Figure | None:
    """The peak of each module's step."""
    series, columns = [], []
    for group, style in zip(groups, styles(groups), strict=True):
        tables = [
            {int(row["module"]): float(row["peak_bytes"]) for row in run.summary["memory"]}
            for run in group.runs
            if run.done
            and run.summary.get("memory")
            and all(row["peak_bytes"] is not None for row in run.summary["memory"])
        ]
        if not tables:
            continue
        peaks = {k: mean_interval([t[k] for t in tables]) for k in sorted(tables[0])}
        peaks = {k: Interval(v.mean, math.nan, 1, v.confidence) for k, v in peaks.items()}
        series.append(interval_series(group.label, peaks, style, 1 / _MIB, level=group.whole))
        columns.append((group.label, peaks))
    if not series:
        return None
    if all(one.level for one in series):
        series = [_as_points(one) for one in series]
    places = sorted({module for _, peaks in columns for module in peaks})
    rows = [
        (
            str(module),
            *(
                f"{peaks[module].mean / _MIB:,.2f} MiB" if module in peaks else "–"
                for _, peaks in columns
            ),
        )
        for module in places
    ]
    heaviest = [f"{max(v.mean for v in p.values()) / _MIB:,.2f} MiB" for _, p in columns]
    whole = any(group.whole for group in groups)
    return Figure(
        "memory",
        "Memory of each module's step",
        "The most that lived at a time of what a module's step made: activations, gradients and "
        "temporaries; without weights and optimizer state. Measured at the module's boundary."
        + (" End-to-end training has a single step: a line." if whole else ""),
        (Chart("", "module", "peak in MiB", tuple(series), zero=True),),
        ("module", *(label for label, _ in columns)),
        (*rows, ("heaviest", *heaviest)),
    )


def epoch_time(groups: Sequence[Group]) -> Figure | None:
    """Seconds of each epoch's training, and what a whole run took."""
    series, rows = [], []
    for group, style in zip(groups, styles(groups), strict=True):
        tables = []
        for run in group.drawn:
            tables.append({int(row["epoch"]): float(row["seconds"]) for row in run.metrics})
        shared = sorted(set(tables[0]).intersection(*tables[1:])) if tables else []
        if not shared:
            continue
        means = {e: sum(table[e] for table in tables) / len(tables) for e in shared}
        epochs = some(shared, POINTS_AT_MOST)
        series.append(
            Series(
                group.label,
                tuple(map(float, epochs)),
                tuple(means[e] for e in epochs),
                colour=style[0],
                dashed=group.whole,
            )
        )
        rows.append(_time_row(group, sorted(means.values())[len(means) // 2]))
    if not series:
        return None
    beside = max(run.side_by_side for group in groups for run in group.runs)
    text = (
        "Seconds of training in each epoch, evaluation apart; the table has whole runs, evaluation "
        "included. Times of different machines and loads cannot be compared."
    )
    if beside > 1:
        text += f" Up to {beside} runs shared the machine."
    return Figure(
        "time",
        "Time",
        text,
        (Chart("", "epoch", "seconds per epoch", tuple(series), zero=True),),
        ("training", "time per run", "of it training", "median epoch", "images per second"),
        tuple(rows),
    )


def _time_row(group: Group, median: float) -> tuple[str, ...]:
    summaries = [run.summary for run in group.runs if run.done]
    training = [s["training_seconds"] for s in summaries if "training_seconds" in s]
    images = [s["images"]["train"] for s in summaries if "images" in s]
    speed = f"{images[0] / median:,.0f}" if images and median > 0 else "–"
    return (
        group.label,
        with_interval(group.result.seconds, seconds_text),
        seconds_text(sum(training) / len(training)) if training else "–",
        seconds_text(median),
        speed,
    )
