"""The memory of a recipe's methods: with its own optimizer and precision."""

from __future__ import annotations

from dataclasses import dataclass

from trgl import recipes
from trgl.build import build_network
from trgl.recipe_memory import bytes_by_method

FLOAT = 4


@dataclass(frozen=True)
class Shape:
    input_shape: tuple[int, int, int] = (1, 8, 8)
    num_classes: int = 10


def test_an_optimizer_that_keeps_two_averages_takes_one_more() -> None:
    sgd = recipes.find("digits-20x1").override({"modules": 3, "filters": 32, "batch_size": 2})
    network = build_network(sgd, Shape(), 0)
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    adam = sgd.override({"optimizer": "adamw", "decay_norms": False})
    ours, theirs = (bytes_by_method(recipe, network) for recipe in (sgd, adam))
    assert set(ours) == set(recipes.METHODS)
    for method in recipes.METHODS:
        more = theirs[method] - ours[method]
        assert FLOAT * trained <= more < 1.5 * FLOAT * trained, method


def test_mixed_precision_takes_less() -> None:
    full = recipes.find("digits-20x1").override({"modules": 2, "filters": 32, "batch_size": 512})
    network = build_network(full, Shape(), 0)
    ours = bytes_by_method(full, network)
    for kind in ("bfloat16", "float16"):
        mixed = bytes_by_method(full.override({"autocast": kind}), network)
        assert all(mixed[method] < 0.9 * ours[method] for method in recipes.METHODS)
