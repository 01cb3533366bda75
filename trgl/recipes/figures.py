"""Recipes of the published figures: accuracy by depth, and a sweep over tau."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from trgl.recipes.published import Published, rows
from trgl.recipes.recipe import Recipe
from trgl.recipes.settings import UNPUBLISHED, Settings, make
from trgl.recipes.tables import describe, settings_of


@dataclass(frozen=True)
class Figure:
    """A published figure, or a half of one.

    Args:
        place: paper and figure.
        row: name of the table's row whose experiment it shows.
        shows: what it shows, and of how many runs.
        found: what the papers found in it.
        settings: where they are not those of the row.
    """

    place: str
    row: str
    shows: str
    found: str
    settings: Settings

    @property
    def published(self) -> Published:
        """The row."""
        return next(row for row in rows() if row.name == self.row)

    @property
    def name(self) -> str:
        """Of the recipe: ``f3`` and the row's network, data, images, regime and modules."""
        number = self.place.rpartition(" ")[2]
        return f"f{number}-{self.row.partition('-')[2]}"

    def recipe(self) -> Recipe:
        """The recipe of the row, with the figure's own settings."""
        row = self.published
        title = f"{self.shows}: {describe(row)}"
        settings = (*settings_of(row), self.settings)
        return make(self.name, title, *settings, published=row.family)


_DEPTH = "accuracy by depth, 10 runs"
_ALL = (
    Figure(
        "NeurIPS 2023, Figure 2",
        "t3-resnet110-stl10-full-parallel-k16",
        _DEPTH,
        "with the penalty the first modules are worse than without, and later ones better",
        {},
    ),
    Figure(
        "NeurIPS 2023, Figure 2",
        "t12-wide-10-1-cifar10-1000-sequential-k10",
        _DEPTH,
        "without the penalty accuracy falls far after the first blocks, with it it does not",
        {},
    ),
    Figure(
        "NeurIPS 2023, Figure 3",
        "t10-wide-10-1-cifar100-5000-multilap-k10",
        _DEPTH,
        "as in Figure 2",
        {},
    ),
    Figure(
        "NeurIPS 2023, Figure 3",
        "t11-wide-10-1-cifar100-5000-parallel-k10",
        _DEPTH,
        "with the penalty accuracy rises more steeply with depth",
        {},
    ),
    Figure(
        "NeurIPS 2023, Figure 4",
        "t3-resnet110-stl10-full-parallel-k16",
        "accuracy for a sweep over tau, 5 runs",
        "better than without the penalty for tau from 0.03 to 100, much the same up to 5000",
        {
            UNPUBLISHED + "the ends are the figure's, the values between are ours": {
                "taus": (0.03, 0.1, 0.5, 5.0, 50.0, 500.0, 5000.0)
            }
        },
    ),
)
FIGURES: Mapping[str, Figure] = {figure.name: figure for figure in _ALL}
