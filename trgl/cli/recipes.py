"""``trgl recipes``: what there is, and where every value comes from."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence
from typing import Any

from trgl import recipes
from trgl.cli.options import show
from trgl.recipes import Recipe
from trgl.recipes.published import Published, row_of
from trgl.recipes.recipe import options as recipe_options
from trgl.strict_json import to_json

_WIDTH = 110
_METHODS = {"vanilla": "vanilla", "transport": "transport", "end-to-end": "end to end"}


def add(commands: Any, arguments: Sequence[str]) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "recipes",
        help="list the recipes, or show one",
        description="List the recipes by table, with the published test accuracies where there "
        "are; with a name, show each value and where it comes from. A name reads table, network, "
        "data set, training images, regime, modules.",
    )
    parser.add_argument("recipe", nargs="?", metavar="RECIPE", help="show this one, or its alias")
    parser.add_argument(
        "--filter",
        metavar="WORD,...",
        help="list only recipes with all of these in the name, or in paper and table: "
        "swin, or t13,150, or 'Table 3'",
    )
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """List the recipes, or show one."""
    if options.recipe:
        recipe = recipes.find(options.recipe)
        if options.json:
            print(to_json(_content(recipe)))
        else:
            _show(recipe)
        return 0
    chosen = _filtered(options.filter)
    if options.json:
        print(
            to_json([_content(recipes.find(name)) for names in chosen.values() for name in names])
        )
        return 0
    for place, names in chosen.items():
        print(f"{place}:")
        found = [recipes.find(name) for name in names]
        width = max(map(len, names))
        for recipe in found:
            row = row_of(recipe.as_dict())
            figures = f"  [{_figures(row)}]" if row else ""
            print(f"  {recipe.name:{width}}  {recipe.title}{figures}")
        print()
    print(
        "In brackets: published test accuracy, vanilla / transport / end to end, in %.\n"
        "trgl recipes NAME shows one, trgl train NAME runs it, trgl compare NAME sets ours beside "
        "the published.\nAliases, whose other fields are options: "
        + textwrap.fill(", ".join(recipes.ALIASES), _WIDTH, initial_indent=" " * 39).strip()
        + "."
    )
    return 0


def _filtered(text: str | None) -> dict[str, list[str]]:
    """The groups that are left, none of them empty.

    Raises:
        ValueError: nothing is left.
    """
    words = [word.strip().lower() for word in (text or "").split(",") if word.strip()]
    left: dict[str, list[str]] = {}
    for place, names in recipes.groups().items():
        kept = [
            name
            for name in names
            if all(word in name.lower() or _is_of(word, place.lower()) for word in words)
        ]
        if kept:
            left[place] = kept
    if not left:
        raise ValueError(
            f"no recipe has all of {', '.join(words)} in its name; `trgl recipes` lists them."
        )
    return left


def _is_of(word: str, place: str) -> bool:
    """Whether a table or figure is meant: table 1 is not table 10."""
    return f" {word} " in f" {place.replace(',', ' ')} "


def _figures(row: Published) -> str:
    shown = (row.accuracy.get(method) for method in _METHODS)
    return " / ".join("-" if value is None else f"{100 * value.mean:.2f}" for value in shown)


def _content(recipe: Recipe) -> dict[str, Any]:
    row = row_of(recipe.as_dict())
    accuracy = row and {
        method: {"mean": value.mean, "half_width": value.half_width}
        for method, value in row.accuracy.items()
    }
    return {**recipe.as_dict(), "sources": recipe.sources, "published_accuracy": accuracy}


def _show(recipe: Recipe) -> None:
    print(f"{recipe.name}: {recipe.title}\n")
    names = [field.name for field in recipe_options()]
    name_width = max(map(len, names)) + 2
    values = {name: show(getattr(recipe, name)) for name in names}
    value_width = min(max(map(len, values.values())), _WIDTH // 3) + 2
    for name, value in values.items():
        start = f"{name.replace('_', '-'):{name_width}}{value:{value_width}}"
        if len(value) > value_width - 2:  # a path: its origin stands below
            print(start)
            start = " " * (name_width + value_width)
        print(
            textwrap.fill(
                recipe.sources[name],
                _WIDTH,
                initial_indent=start,
                subsequent_indent=" " * len(start),
            )
        )
    row = row_of(recipe.as_dict())
    if row is None:
        return
    print(f"\n{row.place}, mean of {row.runs} runs, accuracy {row.chosen}:")
    for method, label in _METHODS.items():
        figure = row.accuracy.get(method)
        if figure is not None:
            half = "" if figure.half_width is None else f" ± {100 * figure.half_width:.2f}"
            copied = ", copied from another paper" * (method == "end-to-end" and row.cited)
            print(f"  {label:11}{100 * figure.mean:.2f}{half} %{copied}")
