"""What the figures of a report share: styles, lines with their intervals, and words."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from trgl.metrics import Interval
from trgl.report.cells import percent
from trgl.report.chart import MARKERS, Series
from trgl.report.groups import Group

POINTS_AT_MOST = 400
LOG_FROM = 30.0  # how many times the smallest value the largest is, where a log axis begins
_PLACES = {"transport": 0, "vanilla": 1, "end-to-end": 2}
Style = tuple[str, str]


def styles(groups: Sequence[Group]) -> list[Style]:
    """Colour and marker of each group: the method's own, or by place where methods repeat."""
    methods = [group.method for group in groups]
    own = len(set(methods)) == len(methods)
    places = [_PLACES.get(m, 3) for m in methods] if own else list(range(len(groups)))
    return [(f"s{place % 7}", MARKERS[place % 4]) for place in places]


def with_interval(interval: Interval | None, show: Callable[[float], str] = percent) -> str:
    """A mean and the half-width of its interval."""
    if interval is None:
        return "–"
    if math.isnan(interval.half_width):
        return show(interval.mean)
    unit = " %" if show is percent else ""
    half = show(interval.half_width).removesuffix(unit)
    return f"{show(interval.mean).removesuffix(unit)} ± {half}{unit}"


def interval_series(
    name: str,
    values: dict[int, Interval],
    style: Style,
    scale: float = 1.0,
    level: bool = False,
    dashed: bool = False,
) -> Series:
    """A line with its band, which is there where any point has a spread."""
    means = tuple(scale * value.mean for value in values.values())
    spread = all(math.isfinite(value.half_width) for value in values.values())
    low = tuple(scale * value.low for value in values.values()) if spread else ()
    high = tuple(scale * value.high for value in values.values()) if spread else ()
    x = tuple(float(place) for place in values)
    return Series(name, x, means, low, high, *style, dashed=dashed or level, level=level)


def seconds_text(seconds: float) -> str:
    """A duration as one would say it: 0.21 s, 35 s, 12 min, 3.2 h."""
    if seconds < 10:
        return f"{seconds:.2g} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def some(values: Sequence[int], most: int) -> list[int]:
    """At most so many of the values, evenly, the first and the last among them."""
    if len(values) <= most:
        return list(values)
    last = len(values) - 1
    return [values[round(place * last / (most - 1))] for place in range(most)]


def band_words(groups: Sequence[Group]) -> str:
    """What lines and bands are."""
    if any(len(group.result.values) > 1 for group in groups):
        return " Lines: means over seeds; bands and bars: 95 % Student-t intervals of the means."
    return " One run each: the spread is not known."


def unfinished(groups: Sequence[Group]) -> str:
    """Whose curves are of runs that did not end well; empty where there are none."""
    partial = [group.label for group in groups if not any(run.done for run in group.runs)]
    return f"No run ended well, the curves are of what there is: {'; '.join(partial)}." * bool(
        partial
    )
