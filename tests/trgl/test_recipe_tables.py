"""The recipes of published tables and figures: their names, settings and figures."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from trgl import recipes
from trgl.recipes import published
from trgl.recipes.recipe import options
from trgl.recipes.settings import PLAIN, make, ours

ROWS = published.rows()
NAME = re.compile(
    r"(t|b)\d+-[a-z0-9_-]+-(tinyimagenet|stl10|cifar10|cifar100|mnist)-(full|\d+)-"
    r"(parallel|parallel-balanced|sequential|multilap)-k\d+"
)
# rows of each table, as the papers print them
COUNTS = {
    "T1": 4,
    "T2": 2,
    "T3": 4,
    "T4": 3,
    "T7": 2,
    "T8": 2,
    "T9": 1,
    "T10": 8,
    "T11": 4,
    "T12": 5,
    "T13": 9,
    "B2": 2,
    "B4": 1,
    "B6": 5,
    "B8": 5,
    "B9": 1,
    "B10": 1,
    "B11": 1,
    "B12": 2,
    "B13": 2,
    "B14": 2,
}


def test_every_published_row_is_a_recipe_of_that_name() -> None:
    assert Counter(row.table for row in ROWS) == COUNTS
    names = [row.name for row in ROWS]
    assert len(set(names)) == len(names)
    assert all(NAME.fullmatch(name) for name in names)
    listed = recipes.names()
    assert len(set(listed)) == len(listed)
    assert [name for name in listed if re.match(r"[tb]\d", name)] == names
    assert [name for group in recipes.groups().values() for name in group] == listed


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_row_and_its_recipe_agree(row: published.Published) -> None:
    recipe = recipes.find(row.name)
    assert recipes.NAMES[row.name].__name__ == row.name.replace("-", "_")
    assert published.row_of(recipe.as_dict()) is row
    assert recipe.modules == row.modules
    assert recipe.train_size == row.train_size
    assert recipe.regime.replace("-", "") == row.regime.partition("-")[0]
    assert recipe.laps == (5 if row.regime == "multilap" else 1)
    assert (recipe.init, recipe.momentum) == ("orthogonal", 0.9)
    assert (recipe.reduction, recipe.evaluate_every) == ("mean", 1)
    large = row.table in ("T1", "T2", "T3", "T4", "T7")
    assert recipe.init_gain == (0.1 if large else 0.05)
    assert recipe.label_smoothing == (0.1 if large else 0.0)
    batch = {"T3": 64, "T7": 64, "T4": 1024}.get(row.table, 256 if large else 128)
    assert recipe.batch_size == batch
    assert (recipe.crop_padding, recipe.flip) == (4, True)
    if row.table != "T4":
        assert recipe.weight_decay == (2e-4 if large else 1e-4)
        rate = 0.002 if batch == 64 else 0.003
        assert recipe.learning_rate == (rate if recipe.regime == "parallel" else 0.007)
        assert recipe.end_to_end_learning_rate == 0.1
        assert recipe.end_to_end_milestones == (120, 160, 200)
        assert (recipe.end_to_end_epochs or recipe.epochs) == 300


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_published_figures_are_plausible(row: published.Published) -> None:
    assert {"vanilla", "transport"} <= set(row.accuracy)
    for value in row.accuracy.values():
        assert 0.3 < value.mean < 1
        assert value.half_width is None or 0 < value.half_width < 0.03
    assert row.accuracy["transport"].mean >= row.accuracy["vanilla"].mean
    assert row.metric in ("last", "best", "unstated")
    assert row.cited == (row.table in ("T1", "T2", "T3", "T4", "T7"))
    if row.memory_saved:
        assert row.memory_saved["vanilla"] > row.memory_saved["transport"] > 0


def test_figures_of_the_text() -> None:
    by_name = {row.name: row for row in ROWS}
    sixteen = by_name["t3-resnet110-stl10-full-parallel-k16"]
    assert sixteen.accuracy["transport"] == published.Accuracy(
        pytest.approx(0.7722), pytest.approx(0.012)
    )
    assert sixteen.memory_saved == {"vanilla": 61, "transport": 58}
    assert sixteen.end_to_end_mib == 6230
    assert (sixteen.time("vanilla"), sixteen.time("end-to-end")) == (16, 0)
    assert sixteen.time("transport") == pytest.approx(1.16 * 1.02 * 100 - 100)
    assert sixteen.hours == "3"
    assert sixteen.place == "NeurIPS 2023, Table 3"
    four = by_name["b4-wide-4-4-tinyimagenet-full-parallel-k4"]
    assert "end-to-end" not in four.accuracy
    assert four.end_to_end_mib == 9241
    assert "6951 MiB" in four.note
    assert four.time("vanilla") is four.time("transport") is four.time("end-to-end") is None


def test_penalties_and_epochs_as_published() -> None:
    def values(name: str, *fields: str) -> tuple[object, ...]:
        recipe = recipes.find(name)
        return tuple(getattr(recipe, field) for field in fields)

    assert values("resnet50-tinyimagenet", "tau", "weighting") == (500_000, "doubled")
    weights = ("weighting", "multiplier_initial", "multiplier_growth", "multiplier_every")
    assert values("resnet152-cifar100", *weights) == ("multipliers", 1, 1, 50)
    for modules, tau in ((2, 50), (4, 0.5), (8, 0.5), (16, 0.5)):
        name = f"t3-resnet110-stl10-full-parallel-k{modules}"
        assert values(name, "tau", "weighting") == (tau, "doubled")
    swin = ("optimizer", "learning_rate", "weight_decay", "decay_norms", "schedule", "warmup")
    assert values("swin_t-cifar10", *swin) == ("adamw", 0.007, 0.05, False, "cosine", 20)
    assert values("swin_t-stl10", "tau", "window", "patch", "drop_path") == (10, 6, 4, 0.1)

    ten = recipes.find("t10-wide-10-1-cifar100-5000-sequential-k10")
    assert ten.epochs == 50  # of the encoder
    assert ten.epochs_of_modules() == [50 + 10 * k for k in range(1, 11)]
    laps = recipes.find("t10-wide-10-1-cifar100-5000-multilap-k10")
    assert [epochs / laps.laps for epochs in laps.epochs_of_modules()] == [
        10 + 2 * k for k in range(1, 11)
    ]
    two = recipes.find("b2-wide-2-5-cifar100-full-multilap-k2")
    assert [epochs / two.laps for epochs in two.epochs_of_modules()] == [25, 40]
    fifty = recipes.find("b13-wide-50-1-cifar100-full-sequential-k50")
    assert set(fifty.epochs_of_modules()) == {10}
    balanced = recipes.find("t7-resnet110-stl10-full-parallel-balanced-k4")
    assert (balanced.balance, balanced.head_windows) == ("papers-balanced", (16, 16, 16, 8))
    shared = ("shared_head", "head", "encoder", "encoder_layers", "filters")
    assert values("resnet20x1-32-mnist", *shared) == (True, "mlp", "pretrained", 2, 32)
    assert values("t12-wide-10-1-cifar10-1000-sequential-k10", "head", "encoder") == (
        "mlp",
        "trained",
    )


def test_what_is_ours_is_said() -> None:
    def flagged(name: str) -> set[str]:
        return set(ours(recipes.find(name)))

    for row in ROWS:
        chosen = flagged(row.name)
        unpublished = row.table in ("T7", "T8", "T9", "T10", "T11", "T12", "T13")
        assert ("tau" in chosen) == (unpublished or row.table[0] == "B"), row.name
        assert ("epochs" in chosen) == (row.table in ("B4", "B12", "B14")), row.name
        assert not chosen & {"learning_rate", "batch_size", "init_gain", "momentum", "modules"}
    assert {"network", "balance", "energy"} <= flagged("vgg19-tinyimagenet")
    assert "pretrain_epochs" in flagged("resnet20x1-32-mnist")
    assert {"encoder_kernel", "flip", "tau", "head"} <= flagged("mnist-20x1")
    assert "threads" not in flagged("mnist-20x1")


def test_aliases_take_options() -> None:
    for alias, name in recipes.ALIASES.items():
        assert alias not in recipes.NAMES
        assert recipes.find(alias) == recipes.find(name)
        assert recipes.find(alias).name == name
    small = recipes.find("resnet20x1-32-mnist").override({"train_size": 600})
    row = published.row_of(small.as_dict())
    assert row is not None
    assert row.train_size == 600
    variant = recipes.find("mnist-20x1").as_dict()
    row = published.row_of(variant)
    assert row is not None
    assert row.name == "t13-resnet20x1-32-mnist-150-parallel-k20"
    for change in ({"train_size": 151}, {"modules": 19}, {"dataset": "cifar10"}):
        assert published.row_of({**variant, **change}) is None
    assert published.row_of(recipes.find("digits-20x1").as_dict()) is None


def test_recipes_of_figures() -> None:
    assert {figure.place for figure in recipes.FIGURES.values()} == {
        f"NeurIPS 2023, Figure {number}" for number in (2, 3, 4)
    }
    for name, figure in recipes.FIGURES.items():
        recipe = recipes.find(name)
        assert recipe.name == name
        row = recipes.find(figure.row)
        same = [f.name for f in options() if f.name != "taus"]
        assert all(getattr(recipe, field) == getattr(row, field) for field in same)
        assert published.row_of(recipe.as_dict()) is figure.published
    sweep = recipes.find("f4-resnet110-stl10-full-parallel-k16")
    assert (sweep.taus[0], sweep.taus[-1]) == (0.03, 5000)
    assert "taus" in ours(sweep)


def test_later_settings_count_with_their_source() -> None:
    first = {"a paper": {"dataset": "digits", "network": "blocks", "modules": 2, "tau": 1.0}}
    second = {"ours: better": {"tau": 2.0}, "a script": {"epochs": 3, "batch_size": 4}}
    rates = {"a paper": {"learning_rate": 0.1, "train_size": 5, "end_to_end_learning_rate": 0.1}}
    recipe = make("a", "b", first, second, rates)
    assert (recipe.tau, recipe.sources["tau"]) == (2.0, "ours: better")
    assert ours(recipe) == {"tau": "ours: better"}
    assert recipe.sources["modules"] == "a paper"
    assert recipe.sources["chunk"] == PLAIN
    assert "not used" in recipe.sources["window"]
    with pytest.raises(TypeError, match="tua"):
        make("a", "b", first, second, rates, {"ours": {"tua": 1.0}})
