"""The report as one HTML page that needs nothing else: no script, no font, no network."""

from __future__ import annotations

import time
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from trgl.report.chart import Chart, Figure
from trgl.report.diagnosis import diagnosis_figures
from trgl.report.figures import figures
from trgl.report.groups import Group, group_runs
from trgl.report.html_table import table
from trgl.report.lines import seconds_text
from trgl.report.published import published
from trgl.report.records import RunRecord
from trgl.report.results import results
from trgl.report.settings import settings_rows
from trgl.report.style import STYLE
from trgl.report.svg import key, to_svg
from trgl.report.words import network_text, seeds_text, shown

MARK = '<meta name="generator" content="trgl report">'
_WIDE, _NARROW, _PANEL = (1040, 400), (350, 290), (350, 270)


def all_figures(runs: Sequence[RunRecord]) -> list[Figure]:
    """Every figure of the page, for those who want them as files."""
    groups = group_runs(runs)
    return figures(groups) + diagnosis_figures(groups)


def to_html(runs: Sequence[RunRecord]) -> str:
    """The whole page.

    Args:
        runs: at least one, of any recipes and data sets.
    """
    groups = group_runs(runs)
    drawn, diagnosed = figures(groups), diagnosis_figures(groups)
    title = _title(groups)
    sections = [("results", "Results", results(groups))]
    if papers := published(groups):
        sections.append(("published", "Beside the papers", papers))
    for figure in [*drawn, *diagnosed]:
        sections.append((figure.key, figure.title, _figure(figure)))
    sections.append(("settings", "Settings", _settings(groups)))
    sections.append(("runs", "Runs", _runs(runs)))
    contents = "".join(f'<li><a href="#{k}">{escape(t)}</a></li>' for k, t, _ in sections)
    body = "".join(
        f'<section id="{k}" aria-labelledby="{k}-title"><h2 id="{k}-title">{escape(t)}</h2>'
        f"{content}</section>"
        for k, t, content in sections
    )
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">{MARK}'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "style-src 'unsafe-inline'\">"
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>"
        f'<a class="skip" href="#results">Skip to the results</a>'
        f"<header><h1>{escape(title)}</h1>{_about(groups)}"
        f'<nav aria-label="Contents"><ul>{contents}</ul></nav></header>'
        f"<main>{body}</main>"
        f"<footer><p>Made by trgl report on "
        f"{time.strftime('%Y-%m-%d at %H:%M %Z')}. {_versions(runs)}</p></footer></body></html>\n"
    )


def _title(groups: Sequence[Group]) -> str:
    names = list(dict.fromkeys(str(group.recipe["name"]) for group in groups))
    return f"{', '.join(names)}: {_ways(len(groups))}"


def _ways(count: int) -> str:
    return "one way of training" if count == 1 else f"{count} ways of training"


def _about(groups: Sequence[Group]) -> str:
    parts = []
    told = set()
    for group in groups:
        recipe, data = group.recipe, group.runs[0].config["data"]
        sizes = data.get("images", {})
        text = f"{recipe['name']}: {network_text(recipe)}; {data['name']}"
        counts = [
            f"{sizes[part]:,} {part}" for part in ("train", "validation", "test") if part in sizes
        ]
        text += f" ({', '.join(counts)} images)." if counts else "."
        if text not in told:
            told.add(text)
            parts.append(f"<p>{escape(text)}</p>")
    seeds = sorted({run.seed for group in groups for run in group.runs})
    parts.append(f'<p class="soft">{escape(seeds_text(seeds).capitalize())}.</p>')
    return "".join(parts)


def _figure(figure: Figure) -> str:
    several = len(figure.charts) > 1
    panels = "".join(_panel(figure, chart, several) for chart in figure.charts)
    legend = _ramp(figure) if figure.ramp else _legend(figure)
    kind = "panels" if several else "single"
    note = f"<figcaption>{escape(figure.note)}</figcaption>" if figure.note else ""
    words = (0,) if figure.header[0] == "training" else ()
    return (
        f"<p>{escape(figure.text)}</p>{legend}"
        f'<figure><div class="{kind}">{panels}</div>{note}</figure>'
        f"<details><summary>The same as a table</summary>"
        f"{table(figure.header, figure.rows, figure.title, words)}</details>"
    )


def _panel(figure: Figure, chart: Chart, several: bool) -> str:
    name = f"{figure.title}, {chart.title}" if chart.title else figure.title
    label = f"{name}: {chart.y_label} against {chart.x_label}; the table below has the values"
    heading = f"<h3>{escape(chart.title)}</h3>" if chart.title else ""
    if several:
        return f"<div>{heading}{to_svg(chart, *_PANEL, label)}</div>"
    return (
        f'{heading}<div class="wide">{to_svg(chart, *_WIDE, label)}</div>'
        f'<div class="narrow">{to_svg(chart, *_NARROW, label)}</div>'
    )


def _legend(figure: Figure) -> str:
    series = {one.name: one for chart in figure.charts for one in chart.series}
    items = "".join(f"<li>{key(one)}{escape(name)}</li>" for name, one in series.items())
    return f'<ul class="legend" aria-label="Legend">{items}</ul>'


def _ramp(figure: Figure) -> str:
    names = [one.name for chart in figure.charts for one in chart.series]
    modules = [int(n.split()[-1]) for n in names if n.startswith("module ")]
    if not modules:
        return ""
    steps = "".join(f'<i class="m{step}"></i>' for step in range(9))
    return (
        f'<p class="ramp" aria-hidden="true">module {min(modules)} <span>{steps}</span> '
        f"{max(modules)}</p>"
    )


def _settings(groups: Sequence[Group]) -> str:
    rows, changed = settings_rows(groups)
    names = ["value"] if len(rows[0]) == 3 else [group.label for group in groups]
    count = sum(changed)
    text = (
        f"{count} of the fields differ from the recipe, or between the runs: they are marked, and "
        "stand first."
        if count
        else "All fields are those of the recipe."
    )
    order = sorted(range(len(rows)), key=lambda place: not changed[place])
    content = table(
        ("field", *names, "source"),
        [rows[place] for place in order],
        "Settings",
        tuple(range(len(rows[0]))),
        classes=["changed" if changed[place] else "" for place in order],
    )
    return f"<p>{escape(text)}</p><details><summary>All fields</summary>{content}</details>"


def _runs(runs: Sequence[RunRecord]) -> str:
    rows = []
    for run in runs:
        summary, accuracy = run.summary, "–"
        if run.done:
            accuracy = f"{100 * summary['accuracy']['last_module_last_epoch']:.1f} %"
        rows.append(
            (
                run.name,
                run.method,
                str(run.seed),
                str(summary["state"]),
                accuracy,
                seconds_text(summary["seconds"]) if "seconds" in summary else "–",
                str(run.config.get("started", "–"))[:16].replace("T", " "),
                "yes" if run.diagnosis else "no",
            )
        )
    header = ("run", "method", "seed", "state", "accuracy", "time", "started", "diagnosed")
    return table(header, rows, "Runs", (0, 1, 3, 6, 7))


def _versions(runs: Sequence[RunRecord]) -> str:
    found: dict[str, set[str]] = {}
    for run in runs:
        versions: dict[str, Any] = dict(run.config.get("versions", {}))
        versions["device"] = run.config.get("device", "")
        for name, value in versions.items():
            if value:
                found.setdefault(name, set()).add(shown(value))
    told = "; ".join(f"{name} {' and '.join(sorted(values))}" for name, values in found.items())
    return f"Runs: {escape(told)}." if told else ""


def is_report(path: Path) -> bool:
    """Whether a file is a page that this module made."""
    with path.open("rb") as stream:
        return MARK.encode() in stream.read(1000)
