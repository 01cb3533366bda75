"""Directories of runs that were never run: their figures are chosen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trgl import recipes
from trgl.recipes import Recipe
from trgl.rundir import RUNS, RunDirectory

RECIPE = recipes.find("digits-20x1").override({"modules": 3, "epochs": 4})


def write_run(
    path: Path,
    method: str = "transport",
    seed: int = 0,
    accuracy: float = 0.8,
    *,
    changes: dict[str, Any] | None = None,
    state: str = "done",
    reason: str = "Module 2 diverged.",
    dataset: str = "digits",
    diagnosis: dict[str, Any] | None = None,
    recipe: Recipe = RECIPE,
) -> Path:
    """A run of 3 modules and 4 epochs; the loss of module k at epoch e is k / e."""
    recipe = recipe.override(changes or {})
    whole = method == "end-to-end"
    modules = [3] if whole else [1, 2, 3]
    depths = {k: accuracy - 0.05 * (3 - k) for k in modules}
    with RunDirectory.create(path) as directory:
        directory.write_config(
            {
                "started": "2026-01-02T03:04:05+0000",
                "method": method,
                "seed": seed,
                "device": "cpu",
                "recipe": recipe.as_dict(),
                "sources": dict(recipe.sources),
                "data": {
                    "name": dataset,
                    "note": "",
                    "images": {"train": 50, "validation": 0, "test": 797},
                },
                "versions": {"torch": "2.99"},
            }
        )
        directory.append_metrics(
            {
                "epoch": epoch,
                "lap": 1,
                "module": k,
                "train_loss": k / epoch,
                "transport_cost": k * 1e-3 if method == "transport" else None,
                "transport_weight": 10.0 if method == "transport" else None,
                "seconds": 0.5,
                "test_accuracy": depths[k] if epoch in (2, 4) else None,
            }
            for epoch in range(1, 5)
            for k in modules
        )
        if diagnosis is not None:
            directory.write_json("diagnostics.json", diagnosis)
        if state == "done":
            directory.write_json(
                "summary.json",
                {
                    "state": "done",
                    "method": method,
                    "seed": seed,
                    "images": {"train": 50, "validation": 0, "test": 797},
                    "seconds": 10.0 + seed,
                    "training_seconds": 2.0,
                    "epochs_evaluated": 2,
                    "accuracy": {
                        "last_module_last_epoch": accuracy,
                        "best_module_by_validation": None,
                        "optimistic_maximum_over_epochs_and_modules": accuracy + 0.01,
                        "last_module_validation": None,
                        "optimistic_maximum_over_epochs_of_last_module": accuracy + 0.005,
                        "by_depth": {} if whole else {str(k): v for k, v in depths.items()},
                    },
                    "memory": [
                        {"module": k, "parameters": 10, "steps": 4, "peak_bytes": k * 2**20}
                        for k in modules
                    ],
                },
            )
        elif state != "unfinished":
            directory.write_json(
                "summary.json",
                {"state": state, "reason": reason, "method": method, "seed": seed},
            )
    return path


def write_comparison(path: Path, runs: dict[str, dict[str, Any]], missing: list[str]) -> Path:
    """A comparison of such runs, and of some that never began."""
    with RunDirectory.create(path) as directory:
        directory.write_config({RUNS: [*runs, *missing], "jobs": 2})
    for name, options in runs.items():
        write_run(path / name, **options)
    return path


def change(file: Path, **values: Any) -> None:
    """Other values in a JSON file."""
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | values))
