"""A sweep over tau as a picture: accuracy against the strength of the penalty."""

from __future__ import annotations

import io
import math
import textwrap

from trgl.metrics import Interval
from trgl.report.comparison import Comparison
from trgl.report.words import TRANSPORT_OF, method_name, network_text, seeds_text

_COLOUR, _BASELINES = "#0072B2", {"vanilla": "#D55E00", "end-to-end": "#555555"}


def swept(comparison: Comparison) -> dict[float, Interval]:
    """Test accuracy of the last module after the last epoch by tau; empty without a sweep."""
    found = {
        float(result.method.removeprefix(TRANSPORT_OF)): result.last
        for result in comparison.methods
        if result.method.startswith(TRANSPORT_OF)
    }
    return {tau: interval for tau, interval in sorted(found.items()) if interval is not None}


def draw_sweep(comparison: Comparison) -> bytes:
    """Draw accuracy against tau on a logarithmic axis, and the other methods as level lines.

    Args:
        comparison: with a sweep over tau of which at least one value has a figure.

    Returns:
        A PNG file's content.
    """
    from matplotlib.figure import Figure  # takes a second: only when a picture is asked for

    figure = Figure(figsize=(8.0, 5.0), dpi=150)
    axes = figure.add_axes((0.10, 0.22, 0.87, 0.68))
    points = swept(comparison)
    means, half = _percent(list(points.values()))
    axes.errorbar(
        list(points), means, yerr=half, color=_COLOUR, marker="o", capsize=3, linewidth=2,
        label="module by module, transport",
    )  # fmt: skip
    for result in comparison.methods:
        if result.method in _BASELINES and result.last is not None:
            (mean,), (spread,) = _percent([result.last])
            colour = _BASELINES[result.method]
            axes.axhline(mean, color=colour, label=method_name(result.method, comparison.recipe))
            axes.axhspan(mean - spread, mean + spread, color=colour, alpha=0.15, linewidth=0)
    axes.set_xscale("log")
    axes.set_xlabel("tau: smaller is stronger")
    axes.set_ylabel("test accuracy in %")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    images = comparison.images.get("train", 0)
    axes.set_title(
        f"Accuracy by tau: {comparison.dataset}, {images:,} training images",
        loc="left",
        fontsize=12,
        fontweight="bold",
    )
    axes.legend(loc="best", fontsize=9, framealpha=0.9)
    caption = (
        f"Recipe {comparison.recipe['name']}: {network_text(comparison.recipe)}. Last module, last "
        f"epoch, {seeds_text(comparison.seeds)}"
        + ("; bars and bands: 95 % interval of the mean." if len(comparison.seeds) > 1 else ".")
    )
    wrapped = "\n".join(textwrap.wrap(caption, 128))
    figure.text(0.02, 0.02, wrapped, fontsize=8, color="#333333", va="bottom", linespacing=1.4)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": "trgl"})
    return stream.getvalue()


def _percent(intervals: list[Interval]) -> tuple[list[float], list[float]]:
    """Means and half widths in %; one run has no spread to be drawn."""
    means = [100 * interval.mean for interval in intervals]
    halves = [100 * interval.half_width for interval in intervals]
    return means, [0.0 if math.isnan(half) else half for half in halves]
