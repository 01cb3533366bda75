"""Recipes: named functions that return a complete, validated, frozen configuration of a run."""

from trgl.recipes.named import NAMES, find, names
from trgl.recipes.recipe import METHODS, Recipe

__all__ = ["METHODS", "NAMES", "Recipe", "find", "names"]
