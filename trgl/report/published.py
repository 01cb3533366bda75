"""The section of the page that sets published figures beside ours."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from trgl import recipes
from trgl.recipes.published import Accuracy, Published, row_of
from trgl.report.beside import notes
from trgl.report.groups import Group, comparison_of
from trgl.report.html_table import table
from trgl.report.lines import with_interval


def published(groups: Sequence[Group]) -> str:
    """A table for each published row that belongs to some of the groups, as HTML; empty if none."""
    found: dict[str, tuple[Published, list[Group]]] = {}
    for group in groups:
        row = row_of(group.recipe)
        if row is not None:
            found.setdefault(row.name, (row, []))[1].append(group)
    return "".join(_section(row, members) for row, members in found.values())


def _section(row: Published, groups: Sequence[Group]) -> str:
    last = row.metric == "last"
    header = [
        "training",
        "ours: last module, last epoch",
        "ours: chosen by validation",
        f"ours, optimistic: best epoch{'' if last else ' and module'}",
        "published",
    ]
    columns = {
        "published: memory saved": lambda method: row.memory_saved.get(method),
        "published: time of an epoch": row.time,
    }
    told = {
        name: read
        for name, read in columns.items()
        if any(read(group.method) is not None for group in groups)
    }
    rows = []
    for group in groups:
        result = group.result
        costs = [read(group.method) for read in told.values()]
        rows.append(
            (
                group.label,
                with_interval(result.last),
                with_interval(result.best),
                with_interval(result.optimistic_last if last else result.optimistic),
                _accuracy(row.accuracy.get(group.method) if _own_tau(group) else None),
                *("–" if cost is None else f"{cost:+.0f} %" for cost in costs),
            )
        )
    told_once = dict.fromkeys(
        note for group in groups for note in notes(comparison_of(group.runs), row)
    )
    details = [f"Published, end to end: {row.end_to_end_mib:,} MiB."] if row.end_to_end_mib else []
    details += [f"Published: {row.hours} hours on a V100 with 16 GB."] if row.hours else []
    items = "".join(f"<li>{escape(note.replace('`', ''))}</li>" for note in [*told_once, *details])
    return (
        f"<p>{escape(row.place)}: mean over {escape(row.runs)} runs, accuracy "
        f"{escape(row.chosen)}. The authors' scripts take the largest test accuracy over epochs, "
        "in parallel training over modules too, on a random half of the test images unless told "
        "otherwise; ours are over all of them. Memory and time are against end-to-end training."
        f"</p>{table([*header, *told], rows, 'Published figures beside ours')}"
        f"<details><summary>What keeps the figures apart</summary><ul>{items}</ul></details>"
    )


def _own_tau(group: Group) -> bool:
    """In a sweep over tau only the recipe's own was published."""
    name = str(group.recipe["name"])
    if group.method != "transport" or name not in recipes.NAMES:
        return True
    return bool(group.recipe["tau"] == recipes.find(name).tau)


def _accuracy(value: Accuracy | None) -> str:
    if value is None:
        return "–"
    half = "" if value.half_width is None else f" ± {100 * value.half_width:.2f}"
    return f"{100 * value.mean:.2f}{half} %"
