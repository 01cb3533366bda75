"""From the directory of a run back to its recipe, its task and its trained network."""

from __future__ import annotations

import contextlib
import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trgl import own_code, rundir
from trgl.build import build_network
from trgl.checkpoint import Checkpoints
from trgl.network import GreedyNetwork
from trgl.recipes import Recipe


@dataclass(frozen=True)
class Shape:
    """What a network is built for.

    Attributes:
        input_shape: channels, height and width of one image.
        num_classes: how many classes there are.
    """

    input_shape: tuple[int, int, int]
    num_classes: int


def read_config(path: Path) -> dict[str, Any]:
    """``config.json`` of a run directory.

    Raises:
        ValueError: there is no run.
    """
    if not rundir.is_run_directory(path):
        raise ValueError(
            f"{path} holds no run of trgl (no {rundir.CONFIG} that says so); give the directory "
            f"of a run."
        )
    config: dict[str, Any] = json.loads((path / rundir.CONFIG).read_text())
    return config


def is_done(path: Path) -> bool:
    """Whether a run came to its end and said so."""
    try:
        summary = json.loads((path / rundir.SUMMARY).read_text())
    except (OSError, ValueError):
        return False
    return isinstance(summary, dict) and summary.get("state") == "done"


def has_checkpoint(path: Path) -> bool:
    """Whether a run saved something to go on from, whole or not."""
    return bool(Checkpoints(path / rundir.CHECKPOINTS).paths())


def recipe_of(config: dict[str, Any]) -> Recipe:
    """The recipe of a run, from what its configuration says.

    A warning says where the file of a network of one's own is not what it was.

    Raises:
        ValueError: it has fields that this version of trgl does not know, or values that it does
            not take.
    """
    recipe = Recipe.from_dict(config["recipe"], config["sources"])
    known = config.get("own_code_sha256")
    with contextlib.suppress(OSError):  # where it is gone, building the network says so
        if known is not None and own_code.digest(recipe.network) != known:
            warnings.warn(
                f"{recipe.network.rpartition(':')[0]}, which makes the network, has changed since "
                f"the run began.",
                stacklevel=2,
            )
    return recipe


def load_network(run: str | Path) -> tuple[GreedyNetwork, Recipe]:
    """The trained network of a run, in evaluation mode on the CPU, and its recipe.

    It is that of the newest checkpoint, which is the end of a run that is done; that of one that is
    not done is where it was saved last. Nothing in the run directory is run as code;
    where the network is FILE.py:NAME, the file that its configuration names is.

    Args:
        run: the directory of one run.

    Raises:
        ValueError: there is no run, it is a comparison, or it has no checkpoint that is whole.
    """
    path = Path(run)
    config = read_config(path)
    if rundir.RUNS in config:
        names = ", ".join(config[rundir.RUNS])
        raise ValueError(
            f"{path} holds a comparison, and a network belongs to one run; give one of the "
            f"directories in it: {names}."
        )
    found = Checkpoints(path / rundir.CHECKPOINTS).load()
    if found is None:
        raise ValueError(
            f"{path} holds no checkpoint, so that there is no trained network; let the run go on "
            f"until it saves one, by trgl train --resume {path}."
        )
    file, state = found
    recipe = recipe_of(config)
    data = config["data"]
    channels, height, width = data["image_shape"]
    shape = Shape((channels, height, width), data["classes"])
    network = build_network(recipe, shape, config["seed"])
    try:
        network.load_state_dict(state["network"])
    except (RuntimeError, KeyError) as error:
        raise ValueError(f"{file} does not hold the network of {path}: {error}") from error
    epochs = sum(count for *_, count in state["signature"]["epochs"])
    if state["cursor"]["epoch"] < epochs:
        warnings.warn(
            f"{path} is not done: its network is that after {state['cursor']['epoch']} of "
            f"{epochs} epochs.",
            stacklevel=2,
        )
    return network.eval(), recipe
