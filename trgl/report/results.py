"""The first section of the page: what came out, how sure it is, and what failed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from trgl.report.chart import Series
from trgl.report.groups import Group, pairs
from trgl.report.html_table import table
from trgl.report.lines import seconds_text, styles, with_interval
from trgl.report.svg import key
from trgl.report.words import seeds_text


def results(groups: Sequence[Group]) -> str:
    """Accuracy of every group, paired differences, and the runs that gave no figure, as HTML."""
    rows, markers = [], []
    for group, (colour, marker) in zip(groups, styles(groups), strict=True):
        result = group.result
        optimistic = with_interval(result.optimistic)
        best = with_interval(result.best)
        if result.last is None:
            interval = "–"
        elif math.isnan(result.last.half_width):
            interval = "one run"
        else:
            interval = f"{100 * result.last.low:.1f} to {100 * result.last.high:.1f}"
        mean = "–" if result.last is None else f"{100 * result.last.mean:.1f} %"
        count = f"{len(result.values)} of {len(group.runs)}"
        seconds = "–" if result.seconds is None else seconds_text(result.seconds.mean)
        rows.append((group.label, mean, interval, best, optimistic, count, seconds))
        markers.append(_swatch(colour, marker, group.whole))
    header = (
        "training",
        "test accuracy",
        "95 % interval",
        "module chosen by validation",
        "optimistic maximum",
        "runs that ended",
        "time per run",
    )
    text = (
        "<p>Test accuracy is that of the last module after the last epoch, on the full test set: "
        "nothing was chosen. The optimistic maximum is the largest over the epochs that were "
        "evaluated and the modules; it is chosen on the test images, and too high.</p>"
    )
    parts = [text, table(header, rows, "Results", markers=markers)]
    parts.append(_differences(groups))
    parts += [f'<p class="warn">{escape(line)}</p>' for line in _failures(groups)]
    return "".join(parts)


def _swatch(colour: str, marker: str, dashed: bool) -> str:
    return key(Series("", (), (), colour=colour, marker=marker, dashed=dashed))


def _differences(groups: Sequence[Group]) -> str:
    rows = []
    for pair in pairs(groups):
        interval = pair.interval
        ends = (
            "one seed"
            if math.isnan(interval.half_width)
            else f"{100 * interval.low:+.1f} to {100 * interval.high:+.1f}"
        )
        rows.append(
            (
                f"{pair.group.label} minus {pair.other.label}",
                f"{100 * interval.mean:+.1f}",
                ends,
                seeds_text(pair.seeds),
            )
        )
    if not rows:
        return ""
    return (
        "<p>Runs of one seed share their training images, initial weights, order and crops, so "
        "that differences are taken seed by seed.</p>"
        + table(("difference", "points", "95 % interval", "seeds"), rows, "Differences", (0, 3))
    )


def _failures(groups: Sequence[Group]) -> list[str]:
    return [
        f"{group.label}, seed {run.seed} ({run.name}): {run.summary['state']}: "
        f"{run.summary.get('reason', 'no reason given')}"
        for group in groups
        for run in group.runs
        if not run.done
    ]
