"""Figures with one panel for each group of runs and one line for each module."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from trgl.report.chart import Chart, Figure, Series
from trgl.report.groups import Group
from trgl.report.lines import LOG_FROM, POINTS_AT_MOST, some, unfinished, with_interval

_MODULE_STEPS = 9
_PLACE_OF_WHOLE = "s2"

_BY_MODULE = {
    "train_loss": (
        "loss",
        "Training loss by epoch and module",
        "Mean criterion of each module, or the local loss in its place, over the training images "
        "of an epoch, in training mode, without the penalty.",
        "loss",
    ),
    "transport_cost": (
        "transport-cost",
        "Transport cost by epoch and module",
        "C_k: the energy of the residues of each module's blocks (per feature under the reduction "
        "mean), averaged over the training images.",
        "transport cost",
    ),
    "transport_weight": (
        "transport-weight",
        "Weight of the transport cost by epoch and module",
        "1/(2 tau), what the cost is multiplied by in the loss; in the method of multipliers the "
        "multiplier, what it is divided by, which grows while the criterion is large.",
        "weight, or multiplier",
    ),
}


def by_module(groups: Sequence[Group], key: str) -> Figure | None:
    """One panel for each group and in it one line for each module.

    A weight that never changes and is the same for all modules is no figure: it stands among the
    settings.
    """
    name, title, text, label = _BY_MODULE[key]
    found = [(group, group.curves(key)) for group in groups]
    missing = [group.label for group, curves in found if not curves]
    found = [(group, curves) for group, curves in found if curves]
    values = [
        value.mean for _, curves in found for curve in curves.values() for value in curve.values()
    ]
    if not values or (key == "transport_weight" and len(set(values)) == 1):
        return None
    log = min(values) > 0 and max(values) / min(values) > LOG_FROM
    charts, rows = [], []
    for group, curves in found:
        series = []
        for module, curve in curves.items():
            epochs = some(list(curve), POINTS_AT_MOST)
            step = round((_MODULE_STEPS - 1) * (module - 1) / max(1, group.modules - 1))
            series.append(
                Series(
                    "whole network" if group.whole else f"module {module}",
                    tuple(map(float, epochs)),
                    tuple(curve[epoch].mean for epoch in epochs),
                    colour=_PLACE_OF_WHOLE if group.whole else f"m{max(0, step)}",
                    dashed=module == 0,
                )
            )
            first, last = curve[epochs[0]].mean, curve[epochs[-1]]
            rows.append(
                (
                    group.label,
                    "whole" if group.whole else str(module),
                    f"{first:.3g}",
                    with_interval(last, lambda value: f"{value:.3g}"),
                )
            )
        charts.append(Chart(group.label, "epoch", label, tuple(series), log=log, zero=not log))
    note = unfinished(groups)
    if missing and key == "transport_cost":
        note = f"Without a penalty no energy is computed: {'; '.join(missing)}. {note}".strip()
    kinds = {group.recipe["weighting"] == "multipliers" for group, _ in found}
    alike = key != "transport_weight" or len(kinds) == 1
    return Figure(
        name,
        title,
        text + (" Means over seeds." if any(len(g.drawn) > 1 for g, _ in found) else ""),
        tuple(_share_axis(charts) if alike else charts),
        ("training", "module", "first epoch", "last epoch"),
        tuple(rows),
        ramp=True,
        note=note,
    )


def _share_axis(charts: Sequence[Chart]) -> list[Chart]:
    """Panels beside each other are compared: they get one y axis."""
    values = [
        y for chart in charts for series in chart.series for y in series.y if math.isfinite(y)
    ]
    return [replace(chart, beside=(min(values), max(values))) for chart in charts]
