"""Small data and comparable metrics for the tests of runs."""

from pathlib import Path
from typing import Any

from trgl.data import ImageData, load
from trgl.rundir import read_metrics


def few_digits(tests: int) -> ImageData:
    """The digits with only the first `tests` of their test images."""
    images = load("digits")
    return ImageData(
        "digits", images.x_train, images.y_train, images.x_test[:tests], images.y_test[:tests], 10
    )


def without_times(path: Path) -> list[dict[str, Any]]:
    """The metrics of a run, which repeat to the last bit, without its times, which do not."""
    return [{k: v for k, v in row.items() if k != "seconds"} for row in read_metrics(path)]
