"""Our figures beside published ones: each under its own name, and what keeps them apart."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest

from trgl import recipes
from trgl.recipes import Recipe
from trgl.report import Comparison, compare, to_csv, to_dict, to_markdown
from trgl.report.beside import beside
from trgl.report.sweep import draw_sweep, swept
from trgl.report.words import epochs_text, network_text
from trgl.strict_json import to_json


def summary(method: str, variant: str = "", seconds: float = 10.0) -> dict[str, Any]:
    """Last epoch 0.5, best epoch of the last module 0.6, of any module 0.7; ten epochs."""
    return {
        "state": "done",
        "method": method,
        **({"variant": variant} if variant else {}),
        "seed": 0,
        "images": {"train": 150, "validation": 0, "test": 10_000},
        "seconds": 2 * seconds,
        "training_seconds": seconds,
        "epochs": 10,
        "accuracy": {
            "last_module_last_epoch": 0.5,
            "best_module_by_validation": {"module": 1, "accuracy": 0.55},
            "optimistic_maximum_over_epochs_and_modules": 0.7,
            "optimistic_maximum_over_epochs_of_last_module": 0.6,
            "last_module_validation": 0.52,
            "by_depth": {} if method == "end-to-end" else {"1": 0.4, "2": 0.5},
        },
    }


def result(recipe: Recipe, dataset: str | None = None, **more: Any) -> Comparison:
    runs = [summary("vanilla"), summary("transport", seconds=12), summary("end-to-end", seconds=8)]
    name = recipe.dataset if dataset is None else dataset
    return compare(recipe.as_dict(), runs, dataset=name, **more)


def cells(table: str) -> list[list[str]]:
    return [[text.strip() for text in line.strip("|").split("|")] for line in table.splitlines()]


def test_honest_optimistic_and_published_stand_apart() -> None:
    parts = beside(result(recipes.find("t13-resnet20x1-32-mnist-150-parallel-k20")))
    assert "NeurIPS 2023, Table 13" in parts[0]
    assert "20 or 50 runs" in parts[0]
    header, _, vanilla, transport, whole = cells(parts[1])
    assert [text.split(":")[0] for text in header] == [
        "training",
        "ours",
        "ours",
        "ours, optimistic",
        "published",
    ]
    assert "of the last module" in header[3]
    assert vanilla[1:] == ["50.0 %", "55.0 %", "60.0 %", "81.84 ± 1.22 %"]
    assert transport[-1] == "87.48 ± 0.42 %"
    assert whole[-1] == "87.82 ± 0.59 %"
    _, _, vanilla, transport, whole = cells(parts[3])
    assert [row[3] for row in (vanilla, transport, whole)] == ["+25 %", "+50 %", "+0 %"]
    assert vanilla[1] == "-"


def test_a_maximum_over_modules_stands_beside_one() -> None:
    parts = beside(result(recipes.find("t11-wide-10-1-cifar100-5000-parallel-k10")))
    header, _, vanilla, *_ = cells(parts[1])
    assert "over epochs and modules" in header[3]
    assert vanilla[3:] == ["70.0 %", "39.45 ± 0.23 %"]


def test_what_keeps_figures_apart_is_said() -> None:
    recipe = recipes.find("t3-resnet110-stl10-full-parallel-k16")
    memory = {"vanilla": 300 * 2**20, "transport": 400 * 2**20, "end-to-end": 1000 * 2**20}
    text = "\n".join(beside(result(recipe, memory=memory)))
    assert "copied from another paper" in text
    assert "6,230 MiB" in text
    assert "1,000 MiB" in text
    assert "3 hours" in text
    assert "70 %" in text
    assert "58 %" in text
    assert "`encoder`: ours, not published" in text
    assert "`tau`" not in text
    assert "Changed" not in text

    own = recipes.find("t12-wide-10-1-cifar10-1000-sequential-k10").override({"epochs": 5})
    text = "\n".join(beside(result(own, dataset="mine")))
    assert "copied" not in text
    assert "Trained on mine, not on cifar10." in text
    assert "do not compare: epochs 5." in text
    assert "`tau`: ours, not published" in text
    table = cells(beside(result(own))[3])
    assert [row[3] for row in table[2:]] == ["-", "-", "-"]  # epochs of one module at a time


def test_measured_memory_comes_before_predicted() -> None:
    runs = [
        {**summary(method), "gpu_peak_bytes": peak}
        for method, peak in (("vanilla", 50), ("transport", 60), ("end-to-end", 100))
    ]
    recipe = recipes.find("t3-resnet110-stl10-full-parallel-k4")
    memory = {"vanilla": 1, "transport": 1, "end-to-end": 100}
    comparison = compare(recipe.as_dict(), runs, dataset="stl10", memory=memory)
    table = cells(beside(comparison)[3])
    assert [row[1:3] for row in table[2:]] == [["50 %", "27 %"], ["40 %", "24 %"], ["0 %", "-"]]
    assert "as measured on the GPU" in beside(comparison)[4]


def test_recipes_without_a_row() -> None:
    assert beside(result(recipes.find("digits-20x1"))) == []
    changed = recipes.find("mnist-20x1").override({"train_size": 151})
    assert beside(result(changed)) == [
        "No row of NeurIPS 2023, Table 13 was published for these settings."
    ]
    assert to_dict(result(changed))["published"] is None


def test_tables_for_programs_hold_published_figures() -> None:
    comparison = result(recipes.find("t13-resnet20x1-32-mnist-150-parallel-k20"))
    facts = to_dict(comparison)["published"]
    assert facts["row"] == "t13-resnet20x1-32-mnist-150-parallel-k20"
    assert facts["methods"]["transport"]["published_accuracy"] == pytest.approx(0.8748)
    assert facts["methods"]["transport"]["honest"] == 0.5
    assert facts["methods"]["transport"]["optimistic"] == 0.6
    assert "tau, weighting" in facts["settings_of_ours"]
    assert to_json(facts)
    rows = list(csv.DictReader(io.StringIO(to_csv(comparison))))
    found = {row["method"]: row for row in rows if row["figure"] == "published"}
    assert float(found["vanilla"]["mean"]) == pytest.approx(0.8184)
    assert float(found["vanilla"]["high"]) == pytest.approx(0.8306)
    assert found["vanilla"]["seeds"] == ""
    assert "Beside NeurIPS 2023, Table 13" in to_markdown(comparison)


def test_a_sweep_sets_the_published_figure_beside_its_own_tau() -> None:
    recipe = recipes.find("f4-resnet110-stl10-full-parallel-k16")
    runs = [summary("vanilla")]
    runs += [summary("transport", f"transport-tau{tau:g}") for tau in recipe.taus]
    comparison = compare(recipe.as_dict(), runs, dataset="stl10")
    assert [one.method for one in comparison.methods][1:3] == [
        "transport-tau0.03",
        "transport-tau0.1",
    ]
    assert len(comparison.differences) == len(recipe.taus)
    assert {difference.other for difference in comparison.differences} == {"vanilla"}
    shown = {row[0]: row[-1] for row in cells(beside(comparison)[1])[2:]}
    published = {name: figure for name, figure in shown.items() if figure != "-"}
    assert list(published.values()) == ["73.57 ± 0.95 %", "77.22 ± 1.20 %"]
    assert "tau = 0.5, doubled in the second half" in list(published)[1]


def test_runs_of_an_earlier_version_have_fewer_fields() -> None:
    recipe = recipes.find("t13-resnet20x1-32-mnist-150-parallel-k20").override({"tau": 0.7})
    runs = [summary("vanilla"), summary("transport")]
    old = {key: value for key, value in recipe.as_dict().items() if key != "recompute_heads"}
    text = to_markdown(compare(old, runs, dataset="mnist"))
    assert "Changed from the recipe: tau 0.7." in text


def test_a_sweep_is_drawn_against_tau(monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    recipe = recipes.find("f4-resnet110-stl10-full-parallel-k16")
    runs = [summary("vanilla"), summary("end-to-end")]
    for tau, accuracy in ((5.0, 0.7), (0.5, 0.8)):
        one = summary("transport", f"transport-tau{tau:g}")
        one["accuracy"]["last_module_last_epoch"] = accuracy
        runs.append(one)
    comparison = compare(recipe.as_dict(), runs, dataset="stl10")
    assert {tau: round(value.mean, 6) for tau, value in swept(comparison).items()} == {
        0.5: 0.8,
        5.0: 0.7,
    }
    drawn: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *a, **k: drawn.append(self) or save(self, *a, **k)
    )
    assert draw_sweep(comparison).startswith(b"\x89PNG")
    (axes,) = drawn[0].axes
    assert axes.get_xscale() == "log"
    curve = next(
        line for line in axes.lines if len(line.get_xdata()) == 2 and line.get_marker() == "o"
    )
    assert list(curve.get_xdata()) == [0.5, 5.0]
    assert list(curve.get_ydata()) == pytest.approx([80, 70])
    levels = [line.get_ydata()[0] for line in axes.lines if line is not curve]
    assert [level for level in levels if level == pytest.approx(50)]
    assert len(axes.get_legend().get_texts()) == 3
    assert swept(result(recipes.find("digits-20x1"))) == {}


def test_words_for_networks_and_epochs_of_tables() -> None:
    def words(name: str) -> tuple[str, str]:
        recipe = recipes.find(name).as_dict()
        return network_text(recipe), epochs_text(recipe)

    laps = words("t10-wide-10-1-cifar100-5000-multilap-k10")
    assert laps == (
        "wide 10-1 ResNet with 256 filters in 10 modules, trained encoder, conv head per module",
        "50 + 10k epochs of module k in 5 laps",
    )
    fifty = words("b13-wide-50-1-cifar100-full-sequential-k50")
    assert fifty[1] == "10 epochs of each module"
    network, epochs = words("resnet20x1-32-mnist")
    assert "pretrained frozen encoder, one shared mlp head" in network
    assert epochs == "300 epochs"
