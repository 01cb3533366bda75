"""The fields of recipes beside each other."""

from __future__ import annotations

from collections.abc import Sequence

from trgl import recipes
from trgl.report.groups import Group
from trgl.report.words import shown


def settings_rows(groups: Sequence[Group]) -> tuple[list[tuple[str, ...]], list[bool]]:
    """Every field with its values and its source.

    Args:
        groups: at least one.

    Returns:
        Rows of the field's name, one value if all groups agree in all fields or else one for each
        group, and the source; and for each row whether it differs from the recipe of that name or
        between the groups.
    """
    different = [group.recipe for group in groups]
    columns = different if any(recipe != different[0] for recipe in different) else different[:1]
    original = {
        name: recipes.find(name).as_dict()
        for name in {str(recipe["name"]) for recipe in columns}
        if name in recipes.NAMES
    }
    sources = groups[0].runs[0].config.get("sources", {})
    rows, changed = [], []
    for key in dict.fromkeys(key for recipe in columns for key in recipe):
        if key in ("name", "title"):
            continue
        values = [recipe.get(key) for recipe in columns]
        told = ["–" if value is None else shown(value) for value in values]
        own = [original.get(str(recipe["name"]), {}).get(key) for recipe in columns]
        rows.append((key.replace("_", "-"), *told, str(sources.get(key, ""))))
        differs = any(value != values[0] for value in values)
        moved = any(o is not None and v != o for v, o in zip(values, own, strict=True))
        changed.append(differs or moved)
    return rows, changed
