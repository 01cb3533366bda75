"""docs/results.md shows the figures under benchmarks/results, by the commands that it names."""

import json
import statistics
from pathlib import Path

import pytest
from experiments import EXPERIMENTS
from results_page import RESULTS, comparison, filled, last_epoch

from trgl.cli.main import build_parser
from trgl.cli.options import chosen_recipe

ROOT = Path(__file__).parents[1]
MEASURED = [name for name in EXPERIMENTS if comparison(name) is not None]


def test_the_page_shows_the_figures() -> None:
    page = (ROOT / "docs/results.md").read_text()
    assert filled(page) == page, "run benchmarks/results_page.py"


def test_every_result_is_of_an_experiment() -> None:
    assert {path.parent.name for path in RESULTS.glob("*/table.json")} == set(MEASURED)
    assert "mnist-150" in MEASURED


@pytest.mark.parametrize("name", MEASURED)
def test_a_result_is_of_the_recipe_that_its_command_names(name: str) -> None:
    words = ["compare", *EXPERIMENTS[name].split()]
    options = build_parser(words).parse_args(words)
    found = json.loads((RESULTS / name / "table.json").read_text())
    assert json.loads(json.dumps(chosen_recipe(options).as_dict())) == found["recipe"]
    assert options.seeds == found["seeds"]


@pytest.mark.parametrize("name", MEASURED)
def test_the_comparison_is_that_of_the_raw_figures(name: str) -> None:
    found = json.loads((RESULTS / name / "table.json").read_text())
    raw = last_epoch(name, "test_accuracy")
    for method, one in found["methods"].items():
        if not one["values"]:
            continue
        last = raw[method][max(raw[method])]
        assert sorted(last) == pytest.approx(sorted(100 * v for v in one["values"].values()))
        mean = 100 * one["last_module_last_epoch"]["mean"]
        assert statistics.mean(last) == pytest.approx(mean)
