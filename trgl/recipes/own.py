"""Recipes that a user wrote in a file of their own."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from trgl.own_code import called, is_reference, load
from trgl.recipes.recipe import Recipe

__all__ = ["find", "is_own", "is_reference"]


def is_own(name: str) -> bool:
    """Whether a name is FILE.py:NAME of a recipe, or of a callable without arguments.

    The file is run.

    Raises:
        ValueError: it cannot be loaded.
    """
    if not is_reference(name):
        return False
    found = load(name)
    return isinstance(found, Recipe) or (callable(found) and not _parameters(found))


def find(name: str) -> Recipe:
    """The recipe of FILE.py:NAME; the file is run.

    Raises:
        ValueError: it cannot be loaded, fails, or is no recipe.
    """
    if is_own(name):
        found = load(name)
        with called(name):
            recipe = found() if callable(found) else found
        if isinstance(recipe, Recipe):
            return recipe
    raise ValueError(
        f"a recipe of one's own is a trgl.recipes.Recipe, or a function without arguments that "
        f"returns one, but {name} is none. For a network write trgl train RECIPE --network {name}"
    )


def _parameters(function: Callable[..., object]) -> list[inspect.Parameter]:
    """Those that have no default."""
    try:
        every = inspect.signature(function).parameters.values()
    except ValueError:
        return []
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p for p in every if p.default is p.empty and p.kind not in kinds]
