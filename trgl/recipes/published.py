"""What the papers published: accuracy, memory and time, row by row, as `published.csv` holds it."""

from __future__ import annotations

import csv
import functools
import importlib.resources
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# as the papers' columns are called here; a key of `trgl.recipes.METHODS` each
_METHODS = {"vanilla": "vanilla", "transport": "transport", "end-to-end": "end_to_end"}
_PAPERS = {"T": "NeurIPS 2023", "B": "AAAI workshop 2022"}
_METRICS = {
    "last": "of the last module",
    "best": "of the best module",
    "unstated": "of a module and an epoch that the text does not name",
}
DATA = {"tinyimagenet": "tiny-imagenet"}  # where our names differ from the rows'


@dataclass(frozen=True)
class Accuracy:
    """A published accuracy.

    Args:
        mean: over the runs, a fraction from 0 to 1.
        half_width: of the 95 % interval, a fraction; None where none was given.
    """

    mean: float
    half_width: float | None


@dataclass(frozen=True)
class Published:
    """A row of a published table.

    Args:
        table: T1 to T13 of the NeurIPS paper, B2 to B14 of the workshop's.
        data: name of the data set.
        train_size: training images; 0 is all of them.
        network: its name in the table.
        regime: parallel, parallel-balanced (modules of equal memory), sequential or multilap.
        modules: K.
        metric: what the accuracy is of, as the text says: last, best or unstated.
        accuracy: by method; those that were published.
        runs: seeds averaged, in words.
        cited: whether the end-to-end accuracy was copied from another paper.
        memory_saved: by method, in % of end-to-end training's memory; those that were published.
        end_to_end_mib: memory of end-to-end training, in MiB; None where it was not published.
        epoch_time: of vanilla training, in % more than end-to-end training's; None likewise.
        penalty_time: of the penalty, in % more than vanilla training's; None likewise.
        hours: of one training on a V100 with 16 GB, in words; empty likewise.
        note: anything else about memory and time; may be empty.
    """

    table: str
    data: str
    train_size: int
    network: str
    regime: str
    modules: int
    metric: str
    accuracy: Mapping[str, Accuracy]
    runs: str
    cited: bool
    memory_saved: Mapping[str, float]
    end_to_end_mib: int | None
    epoch_time: float | None
    penalty_time: float | None
    hours: str
    note: str

    @property
    def family(self) -> str:
        """Table, network and data: what a name begins with, and ``Recipe.published`` says."""
        return f"{self.table}-{self.network}-{self.data}".lower()

    @property
    def name(self) -> str:
        """Of the recipe: table, network, data, training images, regime and modules."""
        return f"{self.family}-{self.train_size or 'full'}-{self.regime}-k{self.modules}"

    @property
    def place(self) -> str:
        """Paper and table, as ``NeurIPS 2023, Table 13``."""
        return place(self.table)

    @property
    def chosen(self) -> str:
        """What the accuracy is of, in words."""
        return _METRICS[self.metric]

    def time(self, method: str) -> float | None:
        """Time of an epoch in % more than end-to-end training's; None where not published."""
        if self.epoch_time is None or method == "end-to-end":
            return None if self.epoch_time is None else 0.0
        if method == "vanilla":
            return self.epoch_time
        if self.penalty_time is None:
            return None
        return (100 + self.epoch_time) * (1 + self.penalty_time / 100) - 100


def place(table: str) -> str:
    """Paper and table: ``T13`` is ``NeurIPS 2023, Table 13``."""
    return f"{_PAPERS[table[0]]}, Table {table[1:]}"


@functools.cache
def rows() -> tuple[Published, ...]:
    """All rows that were published, in the order of the tables."""
    text = importlib.resources.files("trgl.recipes").joinpath("published.csv").read_text("utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return tuple(_row(cells) for cells in csv.DictReader(lines))


def _row(cells: Mapping[str, str]) -> Published:
    def number(name: str) -> float | None:
        return float(cells[name]) if cells.get(name) else None

    accuracy, saved = {}, {}
    for method, column in _METHODS.items():
        mean, half = number(column), number(f"{column}_interval")
        if mean is not None:
            accuracy[method] = Accuracy(mean / 100, None if half is None else half / 100)
        less = number(f"{column}_memory_saved")
        if less is not None:
            saved[method] = less
    size = cells["train_size"]
    mib = number("end_to_end_mib")
    return Published(
        table=cells["table"],
        data=cells["data"],
        train_size=0 if size == "full" else int(size),
        network=cells["network"],
        regime=cells["regime"],
        modules=int(cells["modules"]),
        metric=cells["metric"],
        accuracy=accuracy,
        runs=cells["runs"],
        cited=cells["end_to_end_source"] == "cited",
        memory_saved=saved,
        end_to_end_mib=None if mib is None else int(mib),
        epoch_time=number("epoch_time"),
        penalty_time=number("penalty_time"),
        hours=cells["hours"],
        note=cells["note"],
    )


def row_of(recipe: Mapping[str, Any]) -> Published | None:
    """The row whose figures belong beside those of a recipe; None where none was published.

    It is looked for by table, network, data set, training images, regime and modules: a recipe of
    which other fields were changed still has its row.

    Args:
        recipe: the fields of a recipe.
    """
    family = recipe.get("published")
    if not family:
        return None
    regime = str(recipe["regime"]).replace("-", "")
    balanced = "-balanced" * (recipe.get("balance") == "papers-balanced")
    name = f"{family}-{recipe['train_size'] or 'full'}-{regime}{balanced}-k{recipe['modules']}"
    found = next((row for row in rows() if row.name == name), None)
    if found is not None and recipe["dataset"] != DATA.get(found.data, found.data):
        return None
    return found
