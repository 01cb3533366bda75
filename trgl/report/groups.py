"""Runs that differ in their seed only, as one line of a chart."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trgl.metrics import Interval, mean_interval, paired_interval
from trgl.report.comparison import Comparison, MethodResult, compare
from trgl.report.records import RunRecord
from trgl.report.words import shown, strength

_PENALTY = (
    "tau",
    "taus",
    "weighting",
    "multiplier_initial",
    "multiplier_growth",
    "multiplier_every",
    "reduction",
    "energy",
    "power",
)
_EACH_WITH_EACH = 4  # groups; more of them are each compared with the first only


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
        Group(label, tuple(group), comparison_of(group).methods[0])
        for label, group in zip(_labels(members), members, strict=True)
    ]


@dataclass(frozen=True)
class Pair:
    """Two groups whose runs of one seed share images, initial weights, order and crops.

    Attributes:
        group, other: the two.
        seeds: that both ended well with.
        interval: of the paired differences in accuracy, ``group`` minus ``other``.
    """

    group: Group
    other: Group
    seeds: list[int]
    interval: Interval


def pairs(groups: Sequence[Group]) -> list[Pair]:
    """The groups that differ in method and penalty only, two by two, or each with the first.

    Copies of one configuration are left out, as what they share is not known.
    """
    found = []
    for place, group in enumerate(groups):
        for other in groups[: 1 if len(groups) > _EACH_WITH_EACH else place][:place]:
            shared = [seed for seed in other.result.values if seed in group.result.values]
            if shared and _setting(group) == _setting(other) and _kind(group) != _kind(other):
                mine, theirs = ([g.result.values[s] for s in shared] for g in (group, other))
                found.append(Pair(group, other, shared, paired_interval(mine, theirs)))
    return found


def _setting(group: Group) -> str:
    """What runs share that differ in method and penalty only."""
    fields = {key: value for key, value in group.recipe.items() if key not in _PENALTY}
    return json.dumps([fields, group.runs[0].config["data"]["name"]], sort_keys=True)


def _kind(group: Group) -> tuple[str, str]:
    fields = {key: value for key, value in group.recipe.items() if key in _PENALTY}
    return group.method, json.dumps(fields, sort_keys=True) if group.method == "transport" else ""


def comparison_of(runs: Sequence[RunRecord]) -> Comparison:
    """Runs of one recipe and data set as a comparison."""
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
        # of the penalty's fields those that its strength says, or all where there is no penalty
        told = {"tau", "taus", "weighting"} if method == "transport" else set(_PENALTY)
        told |= {"name", "title"}
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
