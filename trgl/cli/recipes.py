"""``trgl recipes``: what there is, and where every value comes from."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence
from typing import Any

from trgl import recipes
from trgl.cli.options import show
from trgl.recipes.recipe import options as recipe_options
from trgl.rundir import to_json


def add(commands: Any, arguments: Sequence[str]) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "recipes",
        help="list the recipes, or show one",
        description="List the recipes; with a name, show each value and where it comes from.",
    )
    parser.add_argument("recipe", nargs="?", metavar="RECIPE", help="show this one")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """List the recipes, or show one."""
    chosen = (
        [recipes.find(options.recipe)] if options.recipe else list(map(recipes.find, recipes.NAMES))
    )
    if options.json:
        content = [{**recipe.as_dict(), "sources": recipe.sources} for recipe in chosen]
        print(to_json(content[0] if options.recipe else content))
        return 0
    if not options.recipe:
        width = max(map(len, recipes.NAMES))
        for recipe in chosen:
            print(f"{recipe.name:{width}}  {recipe.title}")
        print("\ntrgl recipes NAME shows one, trgl train NAME runs it.")
        return 0
    recipe = chosen[0]
    print(f"{recipe.name}: {recipe.title}\n")
    names = [field.name for field in recipe_options()]
    name_width = max(map(len, names)) + 2
    values = {name: show(getattr(recipe, name)) for name in names}
    value_width = max(map(len, values.values())) + 2
    for name, value in values.items():
        start = f"{name.replace('_', '-'):{name_width}}{value:{value_width}}"
        print(
            textwrap.fill(
                recipe.sources[name], 110, initial_indent=start, subsequent_indent=" " * len(start)
            )
        )
    return 0
