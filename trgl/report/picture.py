"""Accuracy by depth as a picture that explains itself."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Sequence
from typing import Any

from trgl.metrics import Interval
from trgl.report.comparison import Comparison
from trgl.report.words import changed, method_name, network_text, partial_text, seeds_text

# Okabe and Ito's colours, which people with any colour vision can tell apart.
_COLOURS = {"vanilla": "#D55E00", "transport": "#0072B2", "end-to-end": "#555555"}
_LEAST_RANGE = 10.0
_MARKS = {"vanilla": "s", "transport": "o", "end-to-end": "D"}


def draw(comparison: Comparison) -> bytes:
    """Draw test accuracy against depth, with a band for the interval over seeds.

    Args:
        comparison: one or more methods over one or more seeds.

    Returns:
        A PNG file's content.
    """
    from matplotlib.figure import Figure  # takes a second: only when a picture is asked for

    figure = Figure(figsize=(8.0, 5.6), dpi=150)
    axes = figure.add_axes((0.10, 0.24, 0.87, 0.66))
    depth = comparison.modules
    for result in comparison.methods:
        if result.last is None:
            continue
        style = _style(result.method, [other.method for other in comparison.methods])
        label = f"{method_name(result.method, comparison.recipe)}: {_value(result.last)}"
        if not result.by_depth:
            half = 0.0 if math.isnan(result.last.half_width) else 100 * result.last.half_width
            axes.axhline(100 * result.last.mean, color=style["color"], linestyle=":", linewidth=1)
            axes.errorbar(
                [depth], [100 * result.last.mean], yerr=[half], capsize=4, linestyle=":",
                markersize=7, label=label, **style,
            )  # fmt: skip
            continue
        depths = list(result.by_depth)
        means = [100 * interval.mean for interval in result.by_depth.values()]
        axes.plot(depths, means, linewidth=2, markersize=5, label=label, **style)
        if not math.isnan(result.last.half_width):
            axes.fill_between(
                depths,
                [100 * interval.low for interval in result.by_depth.values()],
                [100 * interval.high for interval in result.by_depth.values()],
                color=style["color"],
                alpha=0.15,
                linewidth=0,
            )
    axes.set_ylim(*_range(*axes.get_ylim()))
    axes.set_xlim(min(0.5, depth - 0.5), depth + 0.5)
    axes.set_xticks(_ticks(depth))
    axes.set_xlabel("depth: number of modules that an image passes before it is classified")
    axes.set_ylabel("test accuracy in %")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    images = comparison.images.get("train", 0)
    axes.set_title(
        f"Accuracy at every depth: {comparison.dataset}, {images:,} training images"
        + (" (partial)" if comparison.missing else ""),
        loc="left",
        fontsize=12,
        fontweight="bold",
    )
    if any(result.last for result in comparison.methods):
        axes.legend(loc="best", fontsize=9, framealpha=0.9)
    else:
        axes.text(0.5, 0.5, "no run finished", transform=axes.transAxes, ha="center")
    caption = "\n".join(textwrap.wrap(_caption(comparison), 128))
    figure.text(0.02, 0.02, caption, fontsize=8, color="#333333", va="bottom", linespacing=1.4)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": "trgl"})
    return stream.getvalue()


def _style(method: str, methods: Sequence[str]) -> dict[str, Any]:
    """Colour and mark: a method's own, or in a sweep a shade from dark to light."""
    if method in _COLOURS:
        return {"color": _COLOURS[method], "marker": _MARKS[method]}
    swept = [name for name in methods if name not in _COLOURS]
    shade = 0.75 * swept.index(method) / max(1, len(swept) - 1)
    return {"color": (shade, 0.25 + 0.6 * shade, 0.7), "marker": _MARKS["transport"]}


def _value(interval: Interval) -> str:
    if math.isnan(interval.half_width):
        return f"{100 * interval.mean:.1f} %"
    return f"{100 * interval.mean:.1f} ± {100 * interval.half_width:.1f} %"


def _range(bottom: float, top: float) -> tuple[float, float]:
    """Limits within 0 to 100 % that do not blow up a difference of less than a few points."""
    bottom, top = max(bottom, -2.0), min(top, 102.0)
    missing = max(0.0, _LEAST_RANGE - (top - bottom))
    top = min(top + missing / 2, 102.0)
    return min(bottom, max(top - _LEAST_RANGE, -2.0)), max(top, _LEAST_RANGE - 2.0)


def _ticks(depth: int) -> list[int]:
    step = max(1, math.ceil(depth / 20))
    return (
        [*range(1, depth + 1, step)] if (depth - 1) % step == 0 else [*range(step, depth + 1, step)]
    )


def _caption(comparison: Comparison) -> str:
    several = len(comparison.seeds) > 1
    complete = all(len(r.values) == len(comparison.seeds) for r in comparison.methods)
    finished = "" if complete else "the finished runs of "
    changes = changed(comparison.recipe)
    changes = changes and f" with {changes}"
    parts = [
        f"Recipe {comparison.recipe['name']}{changes}: {network_text(comparison.recipe)}.",
        f"{comparison.note or comparison.dataset + '.'}",
        f"{comparison.images.get('train', 0):,} training images, "
        f"{comparison.images.get('test', 0):,} test images, last epoch.",
        (
            f"Lines: mean over {finished}{seeds_text(comparison.seeds)}; bands and bars: 95 % "
            "Student-t interval of that mean."
            if several
            else f"One run ({seeds_text(comparison.seeds)}), so that the spread is unknown."
        ),
    ]
    if comparison.missing:
        parts.insert(0, partial_text(comparison))
    if any(result.method == "end-to-end" for result in comparison.methods):
        parts.append("End-to-end training has one classifier only, at full depth.")
    return " ".join(parts)
