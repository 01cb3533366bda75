"""Runs that differ in their seed only, as one line of a chart."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trgl.metrics import Interval, mean_interval
from trgl.report.comparison import Comparison, MethodResult, compare
from trgl.report.records import RunRecord
from trgl.report.words import shown, strength


@dataclass(frozen=True)
class Group:
    """Runs of one recipe, method and data set over their seeds.

    Attributes:
        label: what they are called, different from all others on the page.
        runs: in the order of their seeds.
        result: their figures.
    """

    label: str
    runs: tuple[RunRecord, ...]
    result: MethodResult

    @property
    def method(self) -> str:
        """A key of ``trgl.recipes.METHODS``."""
        return self.runs[0].method

    @property
    def whole(self) -> bool:
        """Whether the network was trained end to end."""
        return self.method == "end-to-end"

    @property
    def recipe(self) -> Mapping[str, Any]:
        """The fields of their recipe."""
        return self.runs[0].recipe

    @property
    def modules(self) -> int:
        """The number of modules K."""
        return int(self.recipe["modules"])

    @property
    def drawn(self) -> tuple[RunRecord, ...]:
        """The runs whose curves are averaged: those that ended well, or all where none did."""
        return tuple(run for run in self.runs if run.done) or self.runs

    def curves(self, key: str) -> dict[int, dict[int, Interval]]:
        """A figure by module and epoch: mean over the runs, where all of them have it.

        Args:
            key: a column of ``metrics.jsonl``.
        """
        tables = []
        for run in self.drawn:
            values: dict[tuple[int, int], float] = {}
            for row in run.metrics:
                if row.get(key) is not None:
                    values[int(row["module"]), int(row["epoch"])] = float(row[key])
            tables.append(values)
        shared = set(tables[0]).intersection(*tables[1:])
        found: dict[int, dict[int, Interval]] = {}
        for module, epoch in sorted(shared):
            interval = mean_interval([table[module, epoch] for table in tables])
            found.setdefault(module, {})[epoch] = interval
        return found


def group_runs(runs: Sequence[RunRecord]) -> list[Group]:
    """Put runs that differ in their seed only together, in the order in which they came.

    Two runs of one seed with the same configuration are no two samples: the second begins another
    group, which is called after its directory.
    """
    found: dict[tuple[str, int], list[RunRecord]] = {}
    for run in runs:
        key = json.dumps([run.method, run.recipe, run.config["data"]["name"]], sort_keys=True)
        copies = 0
        while any(other.seed == run.seed for other in found.get((key, copies), ())):
            copies += 1
        found.setdefault((key, copies), []).append(run)
    members = [sorted(group, key=lambda run: run.seed) for group in found.values()]
    return [
        Group(label, tuple(group), _compare(group).methods[0])
        for label, group in zip(_labels(members), members, strict=True)
    ]


def comparisons(groups: Sequence[Group]) -> list[Comparison]:
    """Groups of one recipe and data set beside each other: their runs of one seed are pairs.

    Groups that name one method twice are left out, as what they share is not known.
    """
    found: dict[str, list[Group]] = {}
    for group in groups:
        key = json.dumps([group.recipe, group.runs[0].config["data"]["name"]], sort_keys=True)
        found.setdefault(key, []).append(group)
    return [
        _compare([run for group in beside for run in group.runs])
        for beside in found.values()
        if len({group.method for group in beside}) == len(beside)
    ]


def _compare(runs: Sequence[RunRecord]) -> Comparison:
    data = runs[0].config["data"]
    return compare(
        runs[0].recipe,
        [run.summary for run in runs],
        dataset=str(data["name"]),
        note=str(data.get("note", "")),
        side_by_side=max(run.side_by_side for run in runs),
    )


def _labels(groups: Sequence[Sequence[RunRecord]]) -> list[str]:
    recipes = [group[0].recipe for group in groups]
    several = len({recipe["name"] for recipe in recipes}) > 1
    labels = []
    for group, recipe in zip(groups, recipes, strict=True):
        method = group[0].method
        words = [str(recipe["name"])] if several else []
        words.append({"end-to-end": "end to end"}.get(method, method))
        if method == "transport":
            words[-1] += f" ({strength(recipe)})"
        told = {"name", "title", "tau", "weighting"} if method == "transport" else {"name", "title"}
        same = [other for other in recipes if other["name"] == recipe["name"]]
        words += [
            f"{key.replace('_', '-')} {shown(value)}"
            for key, value in recipe.items()
            if key not in told and any(other.get(key) != value for other in same)
        ]
        data = {other[0].config["data"]["name"] for other in groups}
        if len(data) > 1 and not several:
            words.append(str(group[0].config["data"]["name"]))
        labels.append(", ".join(words))
    named = [
        f"{label} [{group[0].name}]" if labels.count(label) > 1 else label
        for label, group in zip(labels, groups, strict=True)
    ]
    return [
        f"{label} #{named[: place + 1].count(label)}" if named.count(label) > 1 else label
        for place, label in enumerate(named)
    ]
