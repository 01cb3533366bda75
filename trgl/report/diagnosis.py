"""The figures of what ``trgl diagnose`` measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trgl.metrics import Interval, mean_interval
from trgl.report.chart import Chart, Figure, Series
from trgl.report.groups import Group
from trgl.report.lines import LOG_FROM, interval_series, styles, with_interval

Module = Mapping[str, Any]
Values = dict[int, Interval]


def diagnosis_figures(groups: Sequence[Group]) -> list[Figure]:
    """Figures of the diagnoses; none where no run has one."""
    known = [group for group in groups if any(run.diagnosis for run in group.runs)]
    if not known:
        return []
    made = (separability, displacement, optimality, lipschitz)
    return [figure for make in made if (figure := make(groups, known)) is not None]


def _values(group: Group, read: Callable[[Module], float | None]) -> Values:
    """A figure by module: mean over the runs, where all that were diagnosed have it."""
    tables = []
    for run in group.runs:
        if run.diagnosis is not None:
            values = {int(m["module"]): read(m) for m in run.diagnosis["modules"]}
            tables.append({k: float(v) for k, v in values.items() if v is not None})
    if not tables:
        return {}
    shared = sorted(set(tables[0]).intersection(*tables[1:]))
    return {module: mean_interval([table[module] for table in tables]) for module in shared}


def _within(*path: str) -> Callable[[Module], float | None]:
    def read(module: Module) -> float | None:
        value: Any = module
        for key in path:
            value = None if value is None else value.get(key)
        return value  # type: ignore[no-any-return]

    return read


def _lines(
    groups: Sequence[Group],
    known: Sequence[Group],
    read: Callable[[Module], float | None],
    scale: float = 1.0,
) -> tuple[Series, ...]:
    found = []
    for group, style in zip(groups, styles(groups), strict=True):
        values = _values(group, read) if group in known else {}
        if values:
            found.append(interval_series(group.label, values, style, scale, dashed=group.whole))
    return tuple(found)


def _table(
    known: Sequence[Group],
    columns: Sequence[tuple[Callable[[Module], float | None], Callable[[float], str] | None]],
) -> tuple[tuple[str, ...], ...]:
    rows = []
    for group in known:
        found = [_values(group, read) for read, _ in columns]
        for module in sorted(set().union(*found)):
            cells = [
                with_interval(values.get(module), show)
                if show
                else with_interval(values.get(module))
                for values, (_, show) in zip(found, columns, strict=True)
            ]
            rows.append((group.label, str(module), *cells))
    return tuple(rows)


def _size(known: Sequence[Group], key: str) -> str:
    sizes = sorted(
        {int(run.diagnosis[key]) for group in known for run in group.runs if run.diagnosis}
    )
    return " or ".join(f"{size:,}" for size in sizes)


def _three(value: float) -> str:
    return f"{value:.3g}"


def separability(groups: Sequence[Group], known: Sequence[Group]) -> Figure | None:
    """Accuracy of linear probes on what each module puts out."""
    test = _within("separability", "test_accuracy")
    lines = _lines(groups, known, test, 100)
    if not lines:
        return None
    return Figure(
        "separability",
        "Linear separability by depth",
        f"Accuracy of a logistic regression on the features behind each module, fitted to "
        f"{_size(known, 'probe_train')} training images and tested on "
        f"{_size(known, 'probe_test')} others; 0 is what enters module 1.",
        (Chart("", "module", "probe's test accuracy in %", lines, least=10, bounds=(0, 100)),),
        ("training", "module", "test accuracy", "training accuracy", "test loss in nats"),
        _table(
            known,
            [
                (test, None),
                (_within("separability", "train_accuracy"), None),
                (_within("separability", "test_loss"), _three),
            ],
        ),
    )


def displacement(groups: Sequence[Group], known: Sequence[Group]) -> Figure | None:
    """Mean squared displacement of every module and of the composition so far."""
    reads = [_within(name, "relative") for name in ("transport", "composition")]
    charts = _two_panels(groups, known, reads, "‖T(x) − x‖² in variances", (0, math.inf))
    if not charts:
        return None
    return Figure(
        "displacement",
        "How far modules move their inputs",
        f"Mean squared displacement, divided by the variance of the inputs, on "
        f"{_size(known, 'samples')} images.",
        charts,
        ("training", "module", "module alone", "per feature", "composition so far"),
        _table(
            known,
            [
                (reads[0], _three),
                (_within("transport", "per_feature"), _three),
                (reads[1], _three),
            ],
        ),
        note=_shape_note(known),
    )


def optimality(groups: Sequence[Group], known: Sequence[Group]) -> Figure | None:
    """The least cost between inputs and outputs against the cost of the module."""
    reads = [_within(name, "optimality") for name in ("transport", "composition")]
    charts = _two_panels(groups, known, reads, "optimal cost / cost", (0, 1))
    if not charts:
        return None
    cosine = _within("composition", "least_cosine")
    if lines := _lines(groups, known, cosine):
        title = "all modules so far: direction"
        charts += (Chart(title, "module", "least cosine", lines, bounds=(-1, 1), least=0.02),)
    return Figure(
        "optimality",
        "How far modules are from optimal transport",
        "The least sum of squared displacements that sends the inputs to the same set of outputs, "
        f"by an exact assignment of {_size(known, 'samples')} images, divided by that of the "
        "module. Below 1 the map is not optimal; 1 means that no better assignment exists on "
        "these images, which in many dimensions is nearly always so. The least cosine of the angle "
        "between the differences of two inputs and of their outputs is finer: below 0 the map is "
        "not optimal, at 1 it only shifts and scales. The composition of optimal maps need not be "
        "optimal.",
        charts,
        (
            "training",
            "module",
            "module alone",
            "least cosine",
            "composition so far",
            "reassigned",
            "least cosine",
            "median",
        ),
        _table(
            known,
            [
                (reads[0], lambda value: f"{value:.4f}"),
                (_within("transport", "least_cosine"), _three),
                (reads[1], lambda value: f"{value:.4f}"),
                (_within("composition", "reassigned"), None),
                (cosine, _three),
                (_within("composition", "middle_cosine"), _three),
            ],
        ),
        note=_shape_note(known),
    )


def _two_panels(
    groups: Sequence[Group],
    known: Sequence[Group],
    reads: Sequence[Callable[[Module], float | None]],
    label: str,
    bounds: tuple[float, float],
) -> tuple[Chart, ...]:
    """Each module alone, and all so far; logarithmic where values spread over decades."""
    charts = []
    for title, read in zip(("each module alone", "all modules so far"), reads, strict=True):
        lines = _lines(groups, known, read)
        values = [value for line in lines for value in line.y]
        if values:
            log = min(values) > 0 and max(values) / min(values) > LOG_FROM
            charts.append(Chart(title, "module", label, lines, log=log, bounds=bounds, least=0.02))
    return tuple(charts)


def lipschitz(groups: Sequence[Group], known: Sequence[Group]) -> Figure | None:
    """Quantiles of the ratios of distances behind and in front of a map."""
    charts = []
    for name, title in (
        ("lipschitz", "each module alone"),
        ("composition_lipschitz", "all modules so far"),
    ):
        lines = []
        for group, (colour, marker) in zip(groups, styles(groups), strict=True):
            low, middle, high = (
                _values(group, _within(name, "quantiles", q)) for q in ("0.05", "0.5", "0.95")
            )
            if middle:
                lines.append(
                    Series(
                        group.label,
                        tuple(map(float, middle)),
                        tuple(value.mean for value in middle.values()),
                        tuple(value.mean for value in low.values()),
                        tuple(value.mean for value in high.values()),
                        colour=colour,
                        marker=marker,
                        dashed=group.whole,
                    )
                )
        if lines:
            spread = [y for line in lines for y in (*line.low, *line.high) if y > 0]
            log = bool(spread) and max(spread) / min(spread) > LOG_FROM
            charts.append(Chart(title, "module", "‖T(x)−T(y)‖ / ‖x−y‖", tuple(lines), log=log))
    if not charts:
        return None
    columns = [
        (_within(name, "quantiles", q), _three)
        for name in ("lipschitz", "composition_lipschitz")
        for q in ("0.5", "0.95", "1.0")
    ]
    return Figure(
        "lipschitz",
        "Stability: how much distances grow",
        "Ratio of the distance of two images' features behind a map to that in front of it, over "
        f"all pairs of {_size(known, 'samples')} images. Lines: medians; bands: from the 5 % to "
        "the 95 % quantile of the pairs (means over seeds). The largest ratio is a lower bound of "
        "the Lipschitz constant.",
        tuple(charts),
        (
            "training",
            "module",
            "median",
            "95 %",
            "largest",
            "median, composition",
            "95 %, composition",
            "largest, composition",
        ),
        _table(known, columns),
    )


def _shape_note(known: Sequence[Group]) -> str:
    """Which modules change the shape of what passes."""
    changing = sorted(
        {
            int(module["module"])
            for group in known
            for run in group.runs
            if run.diagnosis
            for module in run.diagnosis["modules"]
            if module["note"]
        }
    )
    if not changing:
        return ""
    numbers = ", ".join(map(str, changing))
    return (
        f"Modules that change the shape of their input have no displacement ({numbers}); behind "
        "one the composition begins anew."
    )
