"""How figures are written in tables."""

from __future__ import annotations

import math
from collections.abc import Sequence

from trgl.metrics import Interval


def percent(value: float) -> str:
    """A fraction as a percentage with one decimal."""
    return f"{100 * value:.1f} %"


def ends(interval: Interval, signed: bool = False) -> str:
    """The ends of an interval of fractions, in %."""
    if math.isnan(interval.half_width):
        return "one seed: unknown"
    sign = "+" if signed else ""
    return f"{100 * interval.low:{sign}.1f} to {100 * interval.high:{sign}.1f}"


def cell(interval: Interval | None) -> str:
    """The mean of an interval of fractions, in %."""
    return "-" if interval is None else percent(interval.mean)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns also line up as plain text; the first row is the header."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)
