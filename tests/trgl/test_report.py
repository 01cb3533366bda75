"""Tables and pictures: the right numbers, under names that anyone can read."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from trgl import recipes
from trgl.report import Comparison, compare, draw, to_csv, to_dict, to_markdown
from trgl.report.picture import _range
from trgl.report.tables import aligned
from trgl.report.words import changed, describe, method_name, network_text, seeds_text
from trgl.strict_json import to_json

RECIPE = recipes.find("digits-20x1").override({"modules": 3})


def summary(
    method: str, seed: int, depths: list[float], best: float | None = None
) -> dict[str, Any]:
    return {
        "state": "done",
        "method": method,
        "seed": seed,
        "images": {"train": 50, "validation": 0, "test": 797},
        "seconds": 10.0 + seed,
        "accuracy": {
            "last_module_last_epoch": depths[-1],
            "best_module_by_validation": best and {"module": 2, "accuracy": best},
            "optimistic_maximum_over_epochs_and_modules": max(depths) + 0.01,
            "last_module_validation": None,
            "by_depth": {}
            if method == "end-to-end"
            else {str(depth): value for depth, value in enumerate(depths, 1)},
        },
    }


def several() -> list[dict[str, Any]]:
    return [
        summary("vanilla", 0, [0.5, 0.55, 0.60]),
        summary("vanilla", 1, [0.5, 0.60, 0.70]),
        summary("vanilla", 2, [0.5, 0.60, 0.65]),
        summary("transport", 0, [0.5, 0.60, 0.70]),
        summary("transport", 1, [0.5, 0.70, 0.82]),
        summary("transport", 2, [0.5, 0.65, 0.76]),
        summary("end-to-end", 0, [0.58]),
        summary("end-to-end", 1, [0.66]),
        {"state": "failed", "method": "end-to-end", "seed": 2, "reason": "Module 3 diverged."},
    ]


def result(summaries: list[dict[str, Any]] | None = None) -> Comparison:
    return compare(RECIPE.as_dict(), summaries or several(), dataset="digits", note="Digits.")


def test_means_intervals_and_paired_differences() -> None:
    comparison = result()
    transport = comparison.result("transport")
    assert transport.last is not None
    assert transport.last.mean == pytest.approx(0.76)
    # s = 0.06, t(0.975, 2) = 4.30265, half = t·s/√3
    assert transport.last.half_width == pytest.approx(4.30265 * 0.06 / 3**0.5, rel=1e-4)
    assert {k: round(v.mean, 4) for k, v in transport.by_depth.items()} == {
        1: 0.5,
        2: 0.65,
        3: 0.76,
    }
    difference = comparison.differences[0]
    assert (difference.method, difference.other) == ("transport", "vanilla")
    assert difference.interval.mean == pytest.approx(0.11)
    # differences 0.10, 0.12, 0.11: s = 0.01, far less than the spread of either
    assert difference.interval.half_width == pytest.approx(4.30265 * 0.01 / 3**0.5, rel=1e-4)


def test_failed_runs_are_told_and_do_not_count() -> None:
    comparison = result()
    whole = comparison.result("end-to-end")
    assert whole.values == {0: 0.58, 1: 0.66}
    assert whole.failed == {2: "Module 3 diverged."}
    assert comparison.differences[-1].seeds == [0, 1]
    text = to_markdown(comparison)
    assert "58.0, 66.0, failed" in text
    assert "- end-to-end, seed 2: Module 3 diverged." in text


def test_an_interrupted_comparison_says_that_it_is_partial(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    comparison = compare(
        RECIPE.as_dict(),
        [summary("vanilla", seed, [0.5, 0.6, 0.7]) for seed in (0, 1)],
        dataset="digits",
        seeds=[0, 1, 2],
        methods=["vanilla", "transport"],
    )
    assert comparison.seeds == [0, 1, 2]
    assert comparison.result("transport").missing == [0, 1, 2]
    words = "Partial: interrupted, 4 of 6 runs were not run to the end."
    text = to_markdown(comparison)
    assert words in text
    assert "70.0, 70.0, not run" in text
    assert "failed" not in text
    drawn = drawn_text(comparison, monkeypatch)
    assert words in drawn
    assert "50 training images (partial)" in drawn
    assert "mean over the finished runs of seeds 0 to 2" in drawn


def test_what_was_trained_is_described_and_not_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = RECIPE.override({"filters": 8, "blocks": 2, "epochs": 5, "shared_head": False})
    runs = [summary("vanilla", 0, [0.5, 0.6, 0.7])]
    comparison = compare(recipe.as_dict(), runs, dataset="mine", note="Read from mine.npz.")
    network = "3 modules of 2 pre-activation blocks with 8 filters, random frozen encoder"
    changes = "modules 3, blocks 2, filters 8, shared-head no, epochs 5"
    for text in (describe(comparison), drawn_text(comparison, monkeypatch)):
        assert "scikit-learn" not in text
        assert "mine, 50 training images" in text
        assert network in text
        assert changes in text
    resnet = recipes.find("cifar10-resnet18-k4").as_dict()
    assert network_text(resnet) == "ResNet-18 in 4 modules, conv head per module"
    assert changed(resnet) == ""


def test_times_and_the_optimistic_maximum_say_what_they_are() -> None:
    runs = [{**summary("vanilla", s, [0.5, 0.6, 0.7]), "epochs_evaluated": 4} for s in (0, 1)]
    text = to_markdown(compare(RECIPE.as_dict(), runs, dataset="digits", side_by_side=2))
    assert "| 71.0 % of 4 epochs evaluated " in text
    assert "wall-clock time, evaluation included, with 2 runs side by side." in text


def test_a_comparison_of_failures_alone_still_says_so() -> None:
    failed = {"state": "failed", "method": "vanilla", "seed": 0, "reason": "no memory"}
    comparison = result([failed])
    assert comparison.result("vanilla").last is None
    assert "no memory" in to_markdown(comparison)
    assert draw(comparison).startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="at least one run"):
        compare(RECIPE.as_dict(), [], dataset="digits")


def test_the_report_is_for_a_newcomer() -> None:
    text = to_markdown(result())
    for words in (
        "# digits-20x1: the same network, trained in three ways",
        "digits, 50 training images, 797 test images",
        "module by module (vanilla)",
        "module by module, transport (tau = 0.05)",
        "end to end (backpropagation)",
        "| 76.0 % ",
        "70.0, 82.0, 76.0",
        "| transport minus vanilla",
        "+11.0",
        "+8.5 to +13.5",
        "nothing was chosen",
        "optimistic maximum (chosen on the test images)",
        "| 77.0 % ",  # mean of the optimistic maxima 0.71, 0.83 and 0.77
    ):
        assert words in text, words


def test_one_seed_has_no_interval() -> None:
    comparison = result([summary("vanilla", 3, [0.5, 0.6, 0.7])])
    text = to_markdown(comparison)
    assert "one seed: unknown" in text
    assert "nan" not in text
    assert "nan" not in to_csv(comparison)
    assert "NaN" not in to_json(to_dict(comparison))
    assert "trained in one way" in text


def test_a_choice_by_validation_is_shown() -> None:
    comparison = result([summary("vanilla", s, [0.5, 0.6, 0.7], best=0.6) for s in (0, 1)])
    best = comparison.result("vanilla").best
    assert best is not None
    assert best.mean == pytest.approx(0.6)
    assert "| 60.0 % " in to_markdown(comparison)


def test_csv_and_json_hold_the_same_numbers() -> None:
    comparison = result()
    rows = list(csv.DictReader(io.StringIO(to_csv(comparison))))
    machine = json.loads(to_json(to_dict(comparison)))
    first = next(
        row
        for row in rows
        if (row["method"], row["figure"]) == ("transport", "last_module_last_epoch")
    )
    entry = machine["methods"]["transport"]["last_module_last_epoch"]
    assert float(first["mean"]) == entry["mean"] == pytest.approx(0.76)
    assert float(first["low"]) == entry["low"]
    assert int(first["seeds"]) == entry["count"] == 3
    depths = [row for row in rows if row["method"] == "vanilla" and row["depth"]]
    assert [row["depth"] for row in depths] == ["1", "2", "3"]
    assert any(row["method"] == "transport-minus-vanilla" for row in rows)
    assert machine["methods"]["end-to-end"]["failed"] == {"2": "Module 3 diverged."}
    assert machine["differences"][0]["seeds"] == [0, 1, 2]


def test_tables_line_up() -> None:
    lines = aligned([["a", "long header"], ["longer cell", "b"]]).splitlines()
    assert lines == [
        "| a           | long header |",
        "|-------------|-------------|",
        "| longer cell | b           |",
    ]


def test_words() -> None:
    assert seeds_text([3]) == "seed 3"
    assert seeds_text([0, 1]) == "seeds 0, 1"
    assert seeds_text([0, 1, 2, 3, 4]) == "seeds 0 to 4"
    assert seeds_text([0, 2, 7]) == "seeds 0, 2, 7"
    doubled = RECIPE.override({"weighting": "doubled", "tau": 0.5}).as_dict()
    assert "tau = 0.5, doubled in the second half" in method_name("transport", doubled)
    multipliers = RECIPE.override({"weighting": "multipliers"}).as_dict()
    assert "method of multipliers" in method_name("transport", multipliers)
    assert "validation" not in describe(result())


def drawn_text(comparison: Comparison, monkeypatch: pytest.MonkeyPatch) -> str:
    from matplotlib.figure import Figure

    seen: list[str] = []
    save = Figure.savefig

    def spy(self: Figure, *arguments: Any, **keywords: Any) -> None:
        axes = self.axes[0]
        legend = axes.get_legend()
        seen.extend([axes.get_title(loc="left"), axes.get_xlabel(), axes.get_ylabel()])
        assert legend is not None
        seen.extend(text.get_text() for text in legend.get_texts())
        seen.extend(text.get_text().replace("\n", " ") for text in self.texts)
        seen.append(f"bands: {len(axes.collections)}")
        save(self, *arguments, **keywords)

    monkeypatch.setattr(Figure, "savefig", spy)
    assert draw(comparison).startswith(b"\x89PNG")
    return "\n".join(seen)


def test_the_picture_explains_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    text = drawn_text(result(), monkeypatch)
    for words in (
        "digits, 50 training images",
        "depth: number of modules",
        "test accuracy in %",
        "module by module (vanilla): 65.0 ±",
        "module by module, transport (tau = 0.05): 76.0 ±",
        "end to end (backpropagation): 62.0 ±",
        "50 training images, 797 test images",
        "mean over the finished runs of seeds 0 to 2",
        "95 % Student-t interval",
        "one classifier only",
    ):
        assert words in text, words


def test_the_picture_of_one_run_claims_no_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    text = drawn_text(result([summary("transport", 4, [0.5, 0.6, 0.7])]), monkeypatch)
    assert "One run (seed 4), so that the spread is unknown." in text
    assert "±" not in text
    assert "bands: 0" in text


@pytest.mark.parametrize("depth", [1, 2, 21, 110])
def test_pictures_of_any_depth(depth: int, tmp_path: Path) -> None:
    recipe = RECIPE.override({"modules": depth}).as_dict()
    runs = [summary("vanilla", seed, [0.3 + seed / 100] * depth) for seed in (0, 1)]
    png = draw(compare(recipe, runs, dataset="digits"))
    assert png.startswith(b"\x89PNG")
    assert len(png) > 10_000


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((20.0, 90.0), (20.0, 90.0)),
        ((90.8, 92.0), (86.4, 96.4)),
        ((99.5, 100.5), (92.0, 102.0)),
        ((-1.0, 1.0), (-2.0, 8.0)),
        ((-30.0, 130.0), (-2.0, 102.0)),
    ],
)
def test_small_differences_are_not_blown_up(
    given: tuple[float, float], expected: tuple[float, float]
) -> None:
    assert _range(*given) == pytest.approx(expected)
