"""A chart as data: what is drawn as SVG for the page and as PNG for papers is the same."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

MARKERS = ("circle", "square", "diamond", "triangle")

# Series by their place: Okabe and Ito's hues, darkened or lightened to a contrast of 3 and more
# against the page. Colour never stands alone: places differ in marker and dash too.
LIGHT = ("#0067a6", "#c24e00", "#4d4d4d", "#00795a", "#a3397b", "#7a6000", "#5b45b5")
DARK = ("#62b8f0", "#ff9a4d", "#c4c4c4", "#35cfa0", "#f08fc4", "#e0cf4a", "#ab9cff")
# Modules from the first to the last, in nine steps that grow lighter (on dark ground) or warmer.
LIGHT_MODULES = (
    "#0d0887", "#41049d", "#6a00a8", "#8f0da4", "#b12a90",
    "#bf3984", "#cc4778", "#d6556d", "#dd5e66",
)  # fmt: skip
DARK_MODULES = (
    "#c5407e", "#d6556d", "#e16462", "#eb7557", "#f1844b",
    "#f89540", "#fca636", "#fcce25", "#f0f921",
)  # fmt: skip


@dataclass(frozen=True)
class Series:
    """One line.

    Attributes:
        name: what it shows.
        x: its places, ascending.
        y: its values; NaN leaves a gap.
        low, high: ends of an interval around each; empty where there is none.
        colour: ``s0`` to ``s6`` for the place among all groups, ``m0`` to ``m8`` for a module.
        marker: one of ``MARKERS``, or empty for none.
        dashed: draw the line broken.
        level: one value that is compared with those at every place: a line across the chart, its
            interval as a bar at its own place.
    """

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    colour: str = "s0"
    marker: str = ""
    dashed: bool = False
    level: bool = False


@dataclass(frozen=True)
class Chart:
    """Lines on two axes.

    Attributes:
        title: of the panel; may be empty.
        x_label: with its unit.
        y_label: with its unit.
        series: at least one that has a value.
        log: a logarithmic y axis; all values are above 0.
        whole: x has whole numbers only.
        zero: the y axis begins at 0.
        least: the least extent of a linear y axis, so that noise is not blown up.
        bounds: what values can be, to which the axis and the intervals are cut.
        beside: the least and the largest y of the panels beside it, which share its y axis.
    """

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    log: bool = False
    whole: bool = True
    zero: bool = False
    least: float = 0.0
    bounds: tuple[float, float] = (-math.inf, math.inf)
    beside: tuple[float, ...] = ()


@dataclass(frozen=True)
class Figure:
    """One picture of the page with its words and its table.

    Attributes:
        key: its anchor, and the name of its PNG.
        title: a heading.
        text: what it shows and how it was measured.
        charts: one or more panels; they share the legend.
        header: of the table under the picture.
        rows: of that table.
        ramp: the lines are modules, from the first to the last.
        note: what is missing, and why.
    """

    key: str
    title: str
    text: str
    charts: tuple[Chart, ...]
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    ramp: bool = False
    note: str = ""


@dataclass(frozen=True)
class Axis:
    """Limits and ticks of one axis.

    Attributes:
        low, high: its ends; above 0 where it is logarithmic.
        ticks: values from low to high.
        log: whether it is logarithmic.
    """

    low: float
    high: float
    ticks: tuple[float, ...] = field(default=())
    log: bool = False

    def share(self, value: float) -> float:
        """Where a value lies, from 0 at the low end to 1 at the high one."""
        if self.log:
            low, high = math.log(self.low), math.log(self.high)
            return (math.log(value) - low) / (high - low)
        return (value - self.low) / (self.high - self.low)


def y_axis(chart: Chart, ticks: int = 5) -> Axis:
    """The y axis that holds all values and intervals of a chart."""
    # a logarithmic axis would follow a lower end near 0 for decades
    drawn = [
        value
        for series in chart.series
        for value in (*series.y, *(() if chart.log else series.low), *series.high)
    ]
    values = [
        value
        for value in (*drawn, *chart.beside)
        if math.isfinite(value) and (value > 0 or not chart.log)
    ]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    low, high = max(low, chart.bounds[0]), min(high, chart.bounds[1])
    return log_axis(low, high) if chart.log else linear_axis(low, high, ticks, chart)


def x_axis(chart: Chart, ticks: int = 6) -> Axis:
    """The x axis: ends at the outermost values, with ticks at round ones."""
    values = [x for series in chart.series for x in series.x]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if low == high:
        return Axis(low - 0.5, high + 0.5, (low,))
    step = _round_step((high - low) / ticks)
    if chart.whole:
        step = max(1.0, step)
    inner = _multiples(low, high, step)
    # the ends are told too, unless a neighbour would touch them
    free = [tick for tick in inner if min(tick - low, high - tick) > 0.55 * step]
    return Axis(low, high, (low, *free, high))


def linear_axis(low: float, high: float, ticks: int, chart: Chart) -> Axis:
    """Round limits around the values, at least ``chart.least`` apart."""
    if chart.zero:
        low = min(low, 0.0)
    missing = max(0.0, chart.least - (high - low))
    low, high = (low, high + missing) if chart.zero else (low - missing / 2, high + missing / 2)
    low, high = max(low, chart.bounds[0]), min(high, chart.bounds[1])
    if low == high:
        low, high = low - (abs(low) or 1) * 0.1, high + (abs(high) or 1) * 0.1
    step = _round_step((high - low) / ticks)
    low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    return Axis(low, high, tuple(_multiples(low, high, step)))


def log_axis(low: float, high: float) -> Axis:
    """Limits around positive values, with ticks at powers of ten or at 1, 2 and 5 times them."""
    low, high = low / 1.15, high * 1.15
    decades = math.log10(high / low)
    factors: Sequence[int] = (1,) if decades > 3 else (1, 3) if decades > 1.5 else (1, 2, 5)
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    every = max(1, math.ceil((last - first) / 7))
    ticks = [factor * 10.0**power for power in range(first, last + 1, every) for factor in factors]
    return Axis(low, high, tuple(tick for tick in ticks if low <= tick <= high), log=True)


def _multiples(low: float, high: float, step: float) -> list[float]:
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def _round_step(step: float) -> float:
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * (1 - 1e-9))


def tick_text(value: float) -> str:
    """A tick's value: 1,000, 0.05, 1e-6."""
    if value == 0 or abs(value) < 1e-12:
        return "0"
    if not 1e-4 <= abs(value) < 1e6:
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
