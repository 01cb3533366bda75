"""A chart as SVG that stands inside an HTML page and takes its colours from there."""

from __future__ import annotations

import math
from html import escape

from trgl.report.chart import Axis, Chart, Series, tick_text, x_axis, y_axis

_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 14.0, 26.0, 40.0
_MARKS_AT_MOST = 45


def to_svg(chart: Chart, width: int, height: int, label: str) -> str:
    """Draw a chart.

    Args:
        chart: what to draw.
        width: in CSS pixels, of which letters take 12 to 13.
        height: the same.
        label: what somebody hears who does not see it.
    """
    across = x_axis(chart, max(3, width // 95))
    up = y_axis(chart)
    frame = _Frame(across, up, width, height)
    parts = [
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">',
        f'<text class="axis" x="0" y="12">{escape(chart.y_label)}</text>',
        f'<text class="axis" x="{width - _RIGHT:g}" y="{height - 4}" text-anchor="end">'
        f"{escape(chart.x_label)}</text>",
    ]
    for tick in up.ticks:
        y = frame.y(tick)
        parts.append(f'<path class="grid" d="M{_LEFT:g} {y:.1f}H{width - _RIGHT:g}"/>')
        parts.append(
            f'<text x="{_LEFT - 6:g}" y="{y + 4:.1f}" text-anchor="end">{tick_text(tick)}</text>'
        )
    for tick in across.ticks:
        x = frame.x(tick)
        parts.append(
            f'<text x="{x:.1f}" y="{height - _BOTTOM + 16:g}" text-anchor="middle">'
            f"{tick_text(tick)}</text>"
        )
    parts.append(f'<path class="base" d="M{_LEFT:g} {height - _BOTTOM:g}H{width - _RIGHT:g}"/>')
    parts += [_spread(series, frame) for series in chart.series if series.low]
    parts += [_line(series, frame) for series in chart.series]
    return "".join([*parts, "</svg>"])


class _Frame:
    """From values to pixels."""

    def __init__(self, across: Axis, up: Axis, width: int, height: int) -> None:
        self.across, self.up = across, up
        self.width = width - _LEFT - _RIGHT
        self.height = height - _TOP - _BOTTOM

    def x(self, value: float) -> float:
        return _LEFT + self.width * self.across.share(value)

    def y(self, value: float) -> float:
        return _TOP + self.height * (1 - self.up.share(value))

    def points(self, series: Series, values: tuple[float, ...]) -> list[tuple[float, float] | None]:
        """None where there is nothing to draw."""
        return [
            (self.x(x), self.y(y)) if math.isfinite(y) and (y > 0 or not self.up.log) else None
            for x, y in zip(series.x, values, strict=True)
        ]

    def cut(self, values: tuple[float, ...]) -> tuple[float, ...]:
        """Ends of intervals that lie beyond the axis are drawn at its end."""
        return tuple(min(max(value, self.up.low), self.up.high) for value in values)


def _spread(series: Series, frame: _Frame) -> str:
    lower = frame.points(series, frame.cut(series.low))
    upper = frame.points(series, frame.cut(series.high))
    if len(series.x) > 1:
        both = [pair for pair in zip(lower, upper, strict=True) if pair[0] and pair[1]]
        there = [low for low, _ in both if low]
        back = [high for _, high in reversed(both) if high]
        if not there:
            return ""
        return f'<path class="band {series.colour}" d="{_path([*there, *back])}Z"/>'
    low, high = lower[0], upper[0]
    if not low or not high:
        return ""
    x = low[0]
    return (
        f'<path class="line {series.colour}" d="M{x:.1f} {low[1]:.1f}V{high[1]:.1f}'
        f'M{x - 5:.1f} {low[1]:.1f}h10M{x - 5:.1f} {high[1]:.1f}h10"/>'
    )


def _line(series: Series, frame: _Frame) -> str:
    points = frame.points(series, series.y)
    if series.level and points[0]:
        across = f"M{_LEFT:g} {points[0][1]:.1f}h{frame.width:g}"
        return f'<path class="line dash {series.colour}" d="{across}"/>' + mark(
            series.marker, series.colour, *points[0], f"{series.name}: {series.y[0]:.4g}"
        )
    runs: list[list[tuple[float, float]]] = [[]]
    for point in points:
        if point is None:
            runs.append([])
        else:
            runs[-1].append(point)
    path = "".join(_path(run) for run in runs if len(run) > 1)
    dash = " dash" if series.dashed else ""
    parts = [f'<path class="line{dash} {series.colour}" d="{path}"/>'] if path else []
    if series.marker:
        every = max(1, math.ceil(len(points) / _MARKS_AT_MOST))
        for place, point in enumerate(points):
            if point is not None and (place % every == 0 or place == len(points) - 1):
                told = f"{series.name}: {series.y[place]:.4g} at {series.x[place]:g}"
                parts.append(mark(series.marker, series.colour, *point, told))
    else:
        # a line of one point would not be seen
        parts += [mark("circle", series.colour, *run[0]) for run in runs if len(run) == 1]
    return "".join(parts)


def _path(points: list[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def mark(marker: str, colour: str, x: float, y: float, told: str = "") -> str:
    """One marker, with a text that appears under a pointer."""
    title = f"<title>{escape(told)}</title>" if told else ""
    if marker == "circle":
        return f'<circle class="mark {colour}" cx="{x:.1f}" cy="{y:.1f}" r="3.4">{title}</circle>'
    shapes = {
        "square": "m-3.2 -3.2h6.4v6.4h-6.4z",
        "diamond": "m0 -4.6l4.6 4.6l-4.6 4.6l-4.6 -4.6z",
        "triangle": "m0 -4.4l4.4 7.6h-8.8z",
    }
    return f'<path class="mark {colour}" d="M{x:.1f} {y:.1f}{shapes[marker]}">{title}</path>'


def key(series: Series) -> str:
    """The sample of a line that stands in a legend."""
    dash = " dash" if series.dashed else ""
    marker = mark(series.marker, series.colour, 15, 7) if series.marker else ""
    return (
        '<svg class="key" viewBox="0 0 30 14" aria-hidden="true">'
        f'<path class="line{dash} {series.colour}" d="M1 7H29"/>{marker}</svg>'
    )
