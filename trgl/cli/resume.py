"""``--resume``: a run, or a comparison, goes on as it began."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

from trgl import rundir
from trgl.checkpoint import DamagedError, Every
from trgl.cli.options import whole_number
from trgl.restore import has_checkpoint, read_config, recipe_of
from trgl.trainer import DivergenceError

_SAVE_EVERY, _KEEP = "10m", 2


def add_checkpoint_options(parser: argparse.ArgumentParser, what: str) -> None:
    """Add what says how often the state is saved, and where to go on from.

    Args:
        parser: of a command.
        what: "run" or "comparison".
    """
    group = parser.add_argument_group("checkpoints")
    runs = " Runs that are done stay as they are." if what == "comparison" else ""
    group.add_argument(
        "--resume",
        metavar="DIR",
        type=Path,
        help=f"go on with the {what} in this directory from where it was saved last, in place of "
        f"RECIPE and of the options that it began with.{runs}",
    )
    group.add_argument(
        "--checkpoint-every",
        metavar="TIME|N",
        type=_every,
        help="how often to save what a run goes on from: a time like 90s, 10m or 1h, a number of "
        f"steps (batches), or never; always at the end and when interrupted (default: "
        f"{_SAVE_EVERY})",
    )
    group.add_argument(
        "--keep-checkpoints",
        metavar="N",
        type=whole_number,
        help=f"how many are kept, the last ones (default: {_KEEP})",
    )


def _every(text: str) -> str:
    try:
        Every.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def saving(options: argparse.Namespace) -> tuple[str, int]:
    """How often to save, and how many to keep."""
    return options.checkpoint_every or _SAVE_EVERY, options.keep_checkpoints or _KEEP


def take_up(options: argparse.Namespace, comparison: bool) -> dict[str, Any]:
    """Give the options the values that the run began with; those of places may be new.

    Args:
        options: with ``resume``; they are changed.
        comparison: it is one, and not a single run.

    Returns:
        The run's configuration.

    Raises:
        ValueError: no such run, or options that it cannot go on with.
    """
    path: Path = options.resume
    config = read_config(path)
    if (rundir.RUNS in config) != comparison:
        kind, other = ("a comparison", "compare") if rundir.RUNS in config else ("a run", "train")
        raise ValueError(f"{path} holds {kind}; let it go on by trgl {other} --resume {path}.")
    words = [key for key, value in vars(options).items() if value is not None]
    settled = ("method", "seed", "seeds", "methods", "recipe", "out")
    given = [key for key in words if key in settled]
    given += [key.removeprefix("field_") for key in words if key.startswith("field_")]
    given += ["overwrite"] * options.overwrite
    if given:
        raise ValueError(
            f"--resume goes on with {path} as it began, but received also "
            f"{', '.join(map(_word, given))}; leave that out, or start anew without --resume."
        )
    options.restored = recipe_of(config)
    chosen = config.get("chosen", {})  # of a comparison, which may be that of a figure
    options.recipe = chosen.get("recipe") or options.restored.name
    options.methods = chosen.get("methods")
    for key in ("method", "seed", "seeds"):
        if key in config:
            setattr(options, key, config[key])
    data = config["data"] if comparison else config["data"]["read_from"]
    if options.data is None and not options.download:
        check_there(data, path)
    began: dict[str, Any] = {
        "data": data,
        "device": config["device"],
        "cache": config.get("cache"),
        "jobs": config.get("jobs"),
        "tensorboard": config.get("tensorboard"),
        "checkpoint_every": config.get("checkpoints", {}).get("every"),
        "keep_checkpoints": config.get("checkpoints", {}).get("keep"),
    }
    for key, value in began.items():
        if getattr(options, key, None) is None:
            setattr(options, key, value)
    options.offload = options.offload or config.get("offload", False)
    return config


def check_there(data: str | None, path: Path) -> None:
    """Holds that there still is something where a run read its images.

    Args:
        data: the place that the run recorded; None where it read none.
        path: of the run.

    Raises:
        ValueError: there is nothing any more.
    """
    if data is not None and not Path(data).exists():
        raise ValueError(
            f"{path} read its images from {data}, which is not there any more; give the place "
            f"where they are now by --data."
        )


def what_is_left(path: Path, command: str, error: BaseException, untouched: bool) -> str:
    """What became of a run that ended early, and whether it can be gone on with.

    Args:
        path: of the run, or comparison.
        command: train or compare.
        error: what ended it.
        untouched: the run was to go on, but it did not come to that.
    """
    go_on = f"trgl {command} --resume {shlex.quote(str(path))}"
    if not rundir.is_run_directory(path):
        return f"The run had not begun; {path} holds nothing of it."
    if isinstance(error, DamagedError) and not has_checkpoint(path):
        return f"The damaged checkpoints are put aside, so that {go_on} begins anew."
    if untouched:
        return f"Nothing was trained; {path} is as it was."
    measured = f"What was measured until now is in {path}"
    if isinstance(error, DivergenceError):
        return f"{measured}; going on would diverge again: begin another run with other settings."
    if command == "train" and not has_checkpoint(path):
        return f"{measured}, which holds no checkpoint: {go_on} begins anew."
    return f"{measured}; {go_on} goes on from there."


def _word(key: str) -> str:
    return "RECIPE" if key == "recipe" else "--" + key.replace("_", "-")
