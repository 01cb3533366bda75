"""Recipes: complete, valid, frozen, and every value with its origin."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from trgl import recipes
from trgl.recipes.recipe import Recipe, options


@pytest.mark.parametrize("name", recipes.names())
def test_every_value_of_every_recipe_has_an_origin(name: str) -> None:
    recipe = recipes.find(name)
    assert recipe.name == name
    assert set(recipe.sources) == {field.name for field in options()}
    assert all(len(source) > 10 for source in recipe.sources.values())
    assert json.loads(json.dumps(recipe.as_dict()))["name"] == name


def test_every_option_says_what_it_is() -> None:
    for field in options():
        assert len(field.metadata["help"]) >= 9, field.name
        assert str(field.type) in {
            "int",
            "float",
            "str",
            "bool",
            "tuple[int, ...]",
            "tuple[float, ...]",
        }
        open_ended = field.name in ("network", "balance")
        closed = str(field.type) == "str" and not open_ended
        assert closed == bool(field.metadata["choices"]), field.name


def test_table_13() -> None:
    recipe = recipes.find("mnist-20x1")
    assert (recipe.modules, recipe.blocks, recipe.filters) == (20, 1, 32)
    assert (recipe.encoder_kernel, recipe.encoder_stride, recipe.encoder) == (5, 2, "random")
    assert (recipe.head, recipe.shared_head, recipe.block) == ("linear", True, "pre-activation")
    assert (recipe.learning_rate, recipe.momentum, recipe.weight_decay) == (0.003, 0.9, 1e-4)
    assert (recipe.batch_size, recipe.epochs, recipe.init_gain) == (128, 300, 0.05)
    assert recipe.drop_last
    assert (recipe.tau, recipe.reduction, recipe.train_size) == (0.005, "mean", 150)
    assert recipes.find("mnist-20x1-post").block == "post-activation"


def test_a_recipe_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipes.find("digits-20x1").tau = 1.0  # type: ignore[misc]


def test_unknown_names_suggest_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"Did you mean mnist-20x1\?"):
        recipes.find("mnist-20-1")
    with pytest.raises(ValueError, match="`trgl recipes` lists them"):
        recipes.find("zzz")


def test_an_override_is_noted() -> None:
    recipe = recipes.find("digits-20x1").override({"tau": 0.1}, "command line")
    assert recipe.tau == 0.1
    assert recipe.sources["tau"] == "command line"
    assert recipe.sources["modules"] == recipes.find("digits-20x1").sources["modules"]
    with pytest.raises(ValueError, match="no field 'tua'"):
        recipe.override({"tua": 0.1})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tau": 0.0}, "tau must be above 0"),
        ({"tau": -1.0}, "tau must be above 0"),
        ({"tau": float("nan")}, "tau must be above 0"),
        ({"tau": float("inf")}, "finite"),
        ({"tau": "0.1"}, "tau must be of type float"),
        ({"epochs": 1.5}, "epochs must be of type int"),
        ({"epochs": True}, "epochs must be of type int"),
        ({"flip": 1}, "flip must be of type bool"),
        ({"mean": 0.5}, "mean must be of type tuple"),
        ({"modules": 0}, "modules must be at least 1"),
        ({"train_size": -1}, "train_size must be at least 0"),
        ({"head": "round"}, "head must be one of conv, linear"),
        ({"power": 0.5}, "power must be at least 1"),
        ({"label_smoothing": 1.0}, "below 1"),
        ({"mean": (0.5,)}, "belong together"),
        ({"validation_size": 50}, "must leave training images"),
        ({"regime": "multi-lap", "laps": 3}, "multiple of the laps"),
        ({"regime": "multi-lap", "laps": 5, "epochs_step": 1}, "multiple of the laps"),
        ({"laps": 2}, "belong to the regime multi-lap"),
        ({"epochs_step": 5}, "same epochs"),
        ({"network": "resnet18"}, "first layers of a resnet18 belong to module 1"),
        ({"network": "resnet5"}, r"Did you mean resnet50\?"),
        ({"network": "timm:"}, "timm:NAME for a model of timm's"),
        ({"balance": "width"}, "balance must be one of depth, memory, papers"),
        ({"balance": "1,2,3"}, "blocks of each of 20 modules"),
        ({"encoder_layers": 3}, "set encoder_layers to 1"),
        ({"encoder_layers": 2, "filters": 1}, "half of at least 2 filters"),
        ({"patch": 4}, "patch is for networks such as swin_t, received 4 with the network blocks"),
        ({"network": "vit_tiny", "encoder": "stem", "window": 4}, "window is for networks"),
        ({"network": "swin_t", "encoder": "stem", "drop_path": 1.0}, "drop_path must be below 1"),
        ({"head": "conv", "head_windows": (2, 2)}, "one or 20 of them"),
        ({"head_windows": (2,)}, "with the head linear"),
        ({"encoder_kernel": 4}, "odd"),
        ({"batch_size": 1, "head": "mlp"}, "head mlp cannot train on one image"),
        ({"batch_size": 1, "head": "conv"}, "head conv cannot train on one image"),
        ({"recompute_heads": 21}, "counts modules from the first on, received 21 with 20"),
        ({"taus": (1.0, -1.0)}, "different, finite and above 0"),
        ({"taus": (1.0, 1.0)}, "different, finite and above 0"),
        ({"taus": (1.0,), "weighting": "multipliers"}, "has no tau"),
        ({"end_to_end_milestones": (3, 2)}, "increasing"),
        ({"end_to_end_milestones": (0,)}, "from 1 on"),
        ({"local_loss": "similarity", "local_loss_weight": 1.5}, "at most 1, received 1.5"),
        ({"local_loss_weight": 0.5}, "received 0.5 with none"),
        ({"milestones": (2,)}, r"received \[2\] with schedule constant"),
        ({"schedule": "milestones", "milestones": (4, 4)}, "increasing"),
        ({"end_to_end_schedule": "cosine"}, "end_to_end_schedule cosine; set end_to_end_schedule"),
        ({"milestone_divisor": 1.0}, "milestone_divisor must be above 1"),
        ({"warmup": 200}, "received 200 of 200"),
        ({"minimum_learning_rate": 0.001}, "belongs to the schedule cosine"),
        ({"schedule": "cosine", "minimum_learning_rate": 0.5}, "received 0.5 with 0.003"),
    ],
)
def test_wrong_values(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recipes.find("digits-20x1").override(changes)


def test_epochs_of_modules() -> None:
    recipe = recipes.find("digits-20x1").override(
        {"regime": "sequential", "epochs": 50, "epochs_step": 10, "modules": 3}
    )
    assert recipe.epochs_of_modules() == [60, 70, 80]


def test_required_fields_have_no_silent_default() -> None:
    with pytest.raises(TypeError, match="tau"):
        Recipe(name="a", title="b", dataset="digits")
