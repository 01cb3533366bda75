"""Recipes: named functions that return a complete, validated, frozen configuration of a run."""

from trgl.recipes.figures import FIGURES
from trgl.recipes.named import ALIASES, NAMES, find, groups, names
from trgl.recipes.own import is_own
from trgl.recipes.published import place
from trgl.recipes.recipe import METHODS, Recipe

__all__ = [
    "ALIASES",
    "FIGURES",
    "METHODS",
    "NAMES",
    "Recipe",
    "find",
    "groups",
    "is_own",
    "names",
    "place",
]
