"""A figure of the report as a PNG, for slides and papers."""

from __future__ import annotations

import io
import math
import textwrap

from trgl.report.chart import LIGHT, LIGHT_MODULES, Chart, Figure, tick_text, x_axis, y_axis

_MARKS = {"circle": "o", "square": "s", "diamond": "D", "triangle": "^", "": ""}


def to_png(figure: Figure) -> bytes:
    """Draw all panels of a figure in one picture.

    Returns:
        A PNG file's content.
    """
    from matplotlib.figure import Figure as Canvas  # takes a second: only when it is asked for

    columns = min(len(figure.charts), 3)
    lines = math.ceil(len(figure.charts) / columns)
    width = 7.5 if columns == 1 else 4.6 * columns
    height = 0.9 + (4.4 if columns == 1 else 3.4) * lines
    canvas = Canvas(figsize=(width, height), dpi=150, layout="constrained")
    grid = canvas.subplots(lines, columns, squeeze=False)
    places = list(grid.flat)
    for axes in places[len(figure.charts) :]:
        axes.set_visible(False)
    for axes, chart in zip(places, figure.charts, strict=False):
        _draw(axes, chart, legend=not figure.ramp)
    title = textwrap.fill(figure.title, int(width * 11))
    canvas.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
    stream = io.BytesIO()
    canvas.savefig(stream, format="png", metadata={"Software": "trgl"})
    return stream.getvalue()


def _draw(axes: object, chart: Chart, legend: bool) -> None:
    from matplotlib.axes import Axes

    assert isinstance(axes, Axes)
    across, up = x_axis(chart), y_axis(chart)
    for series in chart.series:
        palette = LIGHT if series.colour[0] == "s" else LIGHT_MODULES
        colour = palette[int(series.colour[1:])]
        x, y, low, high = series.x, series.y, series.low, series.high
        if series.level:
            axes.axhline(y[0], color=colour, linestyle="--", linewidth=1)
        axes.plot(
            x, y, color=colour, linewidth=1.6, markersize=4,
            linestyle="--" if series.dashed else "-",
            marker=_MARKS[series.marker],
            markevery=max(1, len(x) // 40),
            label=series.name.replace("$", r"\$"),
        )  # fmt: skip
        if low and len(x) > 1:
            axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
        elif low:
            half = [[y[0] - low[0]], [high[0] - y[0]]]
            axes.errorbar(x, y, yerr=half, color=colour, capsize=4)
    if up.log:
        axes.set_yscale("log")
    axes.set_ylim(up.low, up.high)
    axes.set_yticks(up.ticks, [tick_text(tick) for tick in up.ticks])
    axes.set_yticks([], minor=True)
    axes.set_xticks(across.ticks, [tick_text(tick) for tick in across.ticks])
    axes.set_xlabel(chart.x_label)
    axes.set_ylabel(chart.y_label)
    axes.set_title(chart.title.replace("$", r"\$"), loc="left", fontsize=10)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if legend:
        axes.legend(fontsize=8, framealpha=0.9)
