"""The recipes by name: one function each."""

from __future__ import annotations

from collections.abc import Callable

from trgl import own_code
from trgl.near import meant
from trgl.recipes import demos, own
from trgl.recipes.figures import FIGURES
from trgl.recipes.published import Published, rows
from trgl.recipes.recipe import Recipe
from trgl.recipes.tables import recipe_of


def _function(row: Published) -> Callable[[], Recipe]:
    def build() -> Recipe:
        return recipe_of(row)

    build.__name__ = build.__qualname__ = row.name.replace("-", "_")
    build.__doc__ = f"{row.place}, as `trgl recipes {row.name}` shows it."
    return build


_DEMOS: dict[str, Callable[[], Recipe]] = {
    "digits-20x1": demos.digits_20x1,
    "mnist-20x1": demos.mnist_20x1,
    "mnist-20x1-post": demos.mnist_20x1_post,
    "cifar10-20x1": demos.cifar10_20x1,
    "cifar10-resnet18-k4": demos.cifar10_resnet18_k4,
}
NAMES: dict[str, Callable[[], Recipe]] = {
    **_DEMOS,
    **{row.name: _function(row) for row in rows()},
    **{name: figure.recipe for name, figure in FIGURES.items()},
}


def _aliases() -> dict[str, str]:
    found: dict[str, str] = {}
    for row in rows():
        found.setdefault(f"{row.network}-{row.data}", row.name)
    return found


# network and data: the first row of them, whose other fields are options
ALIASES: dict[str, str] = _aliases()


def names() -> list[str]:
    """The names of all recipes: those of no table, then the tables' and the figures'."""
    return list(NAMES)


def groups() -> dict[str, list[str]]:
    """The names by paper and table, or figure, in the order of `names`."""
    found: dict[str, list[str]] = {"no table": list(_DEMOS)}
    for row in rows():
        found.setdefault(row.place, []).append(row.name)
    for name, figure in FIGURES.items():
        found.setdefault(figure.place, []).append(name)
    return found


def find(name: str) -> Recipe:
    """The recipe of a name or an alias, or that of FILE.py:NAME, a file that is run.

    Raises:
        ValueError: there is none; the message suggests the nearest names.
    """
    name = ALIASES.get(name, name)
    if name in NAMES:
        return NAMES[name]()
    if own.is_reference(name):
        return own.find(name)
    own_code.check_named(name)
    raise ValueError(
        f"there is no recipe {name!r}.{meant(name, [*NAMES, *ALIASES])} `trgl recipes` lists them; "
        f"FILE.py:NAME is one of your own."
    )
