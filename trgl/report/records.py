"""What finished, failed and unfinished runs left in their directories."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trgl import rundir

_NEEDED = ("recipe", "method", "seed", "data")


@dataclass(frozen=True)
class RunRecord:
    """One run directory as it was read.

    Attributes:
        path: where it is.
        name: what it is called: its last folder, behind that of its comparison.
        config: what ``config.json`` says.
        summary: what ``summary.json`` says; for a run without one a state and a reason.
        metrics: the lines of ``metrics.jsonl``.
        diagnosis: what ``trgl diagnose`` left; None without.
        side_by_side: runs that shared the machine.
    """

    path: Path
    name: str
    config: Mapping[str, Any]
    summary: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]]
    diagnosis: Mapping[str, Any] | None = None
    side_by_side: int = 1

    @property
    def method(self) -> str:
        """A key of ``trgl.recipes.METHODS``."""
        return str(self.config["method"])

    @property
    def seed(self) -> int:
        """Its seed."""
        return int(self.config["seed"])

    @property
    def recipe(self) -> Mapping[str, Any]:
        """The fields of its recipe."""
        fields: Mapping[str, Any] = self.config["recipe"]
        return fields

    @property
    def done(self) -> bool:
        """Whether it ran to its end."""
        return str(self.summary["state"]) == "done"


def run_directories(paths: Sequence[Path]) -> list[tuple[Path, str, int]]:
    """The run directories that are meant: a comparison stands for its runs.

    Args:
        paths: directories of runs and of comparisons.

    Returns:
        Path, name and number of runs side by side of each, without repetitions; runs of a
        comparison that never began are left out.

    Raises:
        ValueError: a path that is neither, or a comparison without any run.
    """
    found: dict[Path, tuple[Path, str, int]] = {}
    for path in paths:
        config = _config(path)
        if rundir.RUNS not in config:
            found.setdefault(path.resolve(), (path, _name(path), 1))
            continue
        children = [path / str(name) for name in config[rundir.RUNS]]
        begun = [child for child in children if rundir.is_run_directory(child)]
        if not begun:
            raise ValueError(
                f"{path} is a comparison of which no run has begun; wait for the first, or give "
                "another directory."
            )
        for child in begun:
            known = (child, f"{_name(path)}/{child.name}", int(config.get("jobs", 1)))
            found.setdefault(child.resolve(), known)
    return list(found.values())


def read_runs(paths: Sequence[Path]) -> list[RunRecord]:
    """Read runs and comparisons.

    Raises:
        ValueError: as ``run_directories``, or a file of a run that cannot be read.
    """
    return [_read(*place) for place in run_directories(paths)]


def _name(path: Path) -> str:
    return path.resolve().name


def _config(path: Path) -> Mapping[str, Any]:
    if not rundir.is_run_directory(path):
        raise ValueError(
            f"{path} holds no run of trgl (no {rundir.CONFIG} that says so); give a directory that "
            "trgl train or trgl compare wrote."
        )
    return _object(path / rundir.CONFIG)


def _object(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}); it was changed or damaged.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object, received a {type(content).__name__}.")
    return content


def _read(path: Path, name: str, side_by_side: int) -> RunRecord:
    config = _config(path)
    missing = [key for key in _NEEDED if key not in config]
    if missing:
        raise ValueError(
            f"{path / rundir.CONFIG} says nothing of {', '.join(missing)}: it is of another "
            "version of trgl, or damaged; run again, or leave this run out."
        )
    metrics = rundir.read_metrics(path) if (path / rundir.METRICS).is_file() else []
    if (path / rundir.SUMMARY).is_file():
        summary = _object(path / rundir.SUMMARY)
    else:
        epochs = len({row.get("epoch") for row in metrics})
        summary = {
            "state": "unfinished",
            "reason": f"no {rundir.SUMMARY}: still running, or killed; {epochs} epochs are there",
        }
    summary = {"method": config["method"], "seed": config["seed"], **summary}
    diagnosis = _object(path / rundir.DIAGNOSIS) if (path / rundir.DIAGNOSIS).is_file() else None
    return RunRecord(path, name, config, summary, metrics, diagnosis, side_by_side)
