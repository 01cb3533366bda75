"""Small data and comparable metrics for the tests of runs."""

from pathlib import Path
from typing import Any

from trgl import recipes
from trgl.data import ImageData, load
from trgl.prepare import Task, prepare
from trgl.recipes import Recipe
from trgl.run import perform
from trgl.rundir import RunDirectory, read_metrics


def few_digits(tests: int) -> ImageData:
    """The digits with only the first `tests` of their test images."""
    images = load("digits")
    return ImageData(
        "digits", images.x_train, images.y_train, images.x_test[:tests], images.y_test[:tests], 10
    )


_OF_THE_MACHINE = ("seconds", "images_per_second", "memory_bytes")


def without_times(path: Path) -> list[dict[str, Any]]:
    """The metrics of a run, which repeat to the last bit, without times and memory."""
    rows = read_metrics(path)
    return [{k: v for k, v in row.items() if k not in _OF_THE_MACHINE} for row in rows]


def small(**changes: Any) -> Recipe:
    """The demonstration with three tiny modules and some epochs, and what a test changes."""
    tiny = {"modules": 3, "filters": 4, "epochs": 4, "evaluate_every": 2, "train_size": 30}
    return recipes.find("digits-20x1").override({**tiny, **changes})


def run_once(
    path: Path, images: ImageData, recipe: Recipe, method: str = "transport", seed: int = 0
) -> dict[str, Any]:
    """Makes a run of its own directory, and returns its summary."""
    with RunDirectory.create(path) as directory:
        return perform(prepare(Task(recipe, method, seed), images), directory)
