"""Networks that compute nothing."""

import torch

import trgl
from trgl import models
from trgl.build import balance_of, build_model, heads_of
from trgl.recipes import find


def on_meta(name, shape, classes=1000, **options):
    with torch.device("meta"):
        return models.build(name, shape, classes, **options)


def recipe_of(name, modules, balance="depth", **options):
    own = {"network": name, "modules": modules, "balance": balance, "shared_head": False}
    own |= {"encoder": "stem", "head": "conv", "init": "own"}
    return find("digits-20x1").override({**own, **options})


def split_on_meta(recipe, shape, classes):
    with torch.device("meta"):
        return trgl.split(
            build_model(recipe, shape, classes),
            recipe.modules,
            shape,
            classes,
            heads_of(recipe),
            balance_of(recipe),
            energy=recipe.energy,
            encoder=None if recipe.encoder == "stem" else "stem",
        )
