"""``trgl train``: one run of a recipe."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trgl.cli.options import (
    add_recipe_options,
    add_run_options,
    chosen_device,
    chosen_images,
    chosen_recipe,
    chosen_tensorboard,
    seed_number,
    show,
)
from trgl.cli.progress import Display
from trgl.cli.resume import add_checkpoint_options, saving, take_up, what_is_left
from trgl.prepare import Task, prepare
from trgl.recipes import METHODS
from trgl.report.cells import percent
from trgl.restore import has_checkpoint, is_done
from trgl.rundir import PICTURE, SUMMARY, RunDirectory
from trgl.workers import draw_run, run_in, threads_per_run


def add(commands: Any, arguments: Sequence[str]) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "train",
        help="train one network",
        description="Train one network by a recipe. The run directory gets config.json, "
        "metrics.jsonl (one object per epoch and module), summary.json, accuracy_by_depth.png and "
        "checkpoints, from which --resume goes on.",
    )
    parser.add_argument(
        "--method",
        choices=list(METHODS),
        metavar="|".join(METHODS),
        help="; ".join(f"{name}: {text}" for name, text in METHODS.items())
        + " (default: transport)",
    )
    parser.add_argument(
        "--seed",
        type=seed_number,
        metavar="N",
        help="of training images, initial weights, order and crops (default: 0)",
    )
    add_run_options(parser)
    add_checkpoint_options(parser, "run")
    add_recipe_options(parser, arguments)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Train one network."""
    config = None if options.resume is None else take_up(options, comparison=False)
    recipe = chosen_recipe(options)
    if options.field_taus:
        raise ValueError(
            f"--taus are swept over by trgl compare, and trgl train takes one, received "
            f"{show(options.field_taus)}; give --tau, or use trgl compare."
        )
    device = chosen_device(options)
    tensorboard = chosen_tensorboard(options)
    images = chosen_images(options, recipe)
    threads = config["threads"] if config else threads_per_run(recipe.threads, 1)
    places = (options.data, options.cache, options.offload)
    method, seed = options.method or "transport", options.seed or 0
    saved = saving(options)
    task = Task(recipe, method, seed, device, threads, *places, *saved, tensorboard)
    display = Display(1, options.quiet)
    if config and is_done(options.resume):
        path, summary = options.resume, json.loads((options.resume / SUMMARY).read_text())
        if not (path / PICTURE).exists():  # the last thing that is written
            with open_directory(options, recipe.name) as directory:
                draw_run(task, images, summary, directory)
    else:
        again = config is not None
        prepared = prepare(task, images, trained=again and has_checkpoint(options.resume))
        display.announce()
        with open_directory(options, recipe.name) as directory:
            try:
                summary = run_in(prepared, directory, display.update, again)
            finally:
                display.clear()
            path = directory.path
    accuracy = summary["accuracy"]
    sizes = summary["images"]
    print(
        f"{recipe.name}, {task.method}, seed {task.seed}: {images.name}, {sizes['train']:,} "
        f"training and {sizes['test']:,} test images, {summary['seconds']:.0f} s"
    )
    depths = accuracy["by_depth"]
    if len(depths) > 1:
        print(f"test accuracy, first module: {percent(depths[min(depths, key=int)])}")
    print(f"test accuracy, last module:  {percent(accuracy['last_module_last_epoch'])}")
    if accuracy["best_module_by_validation"]:
        best = accuracy["best_module_by_validation"]
        print(
            f"test accuracy of module {best['module']}, the best on the validation images: "
            f"{percent(best['accuracy'])}"
        )
    print(f"run directory: {path}")
    print(f"picture:       {path / PICTURE}")
    return 0


@contextmanager
def open_directory(options: argparse.Namespace, name: str) -> Iterator[RunDirectory]:
    """The run directory of the command line, that of the run that goes on, or a new numbered one.

    Where the run ends early, a line on stderr says what is left of it.

    Raises:
        ValueError: the directory is taken.
    """
    if options.resume is not None:
        directory = RunDirectory.open(options.resume)
    elif options.out is not None:
        directory = RunDirectory.create(options.out, options.overwrite)
    elif options.overwrite:
        raise ValueError("--overwrite needs --out, which says what may be replaced.")
    else:
        directory = RunDirectory.numbered(Path("runs"), name)
    before = _summary_of(directory.path)
    try:
        with directory:
            yield directory
    except BaseException as error:
        again = options.command == "train" and options.resume is not None
        untouched = again and _summary_of(directory.path) == before
        text = what_is_left(directory.path, options.command, error, untouched)
        with contextlib.suppress(OSError):
            print(text, file=sys.stderr, flush=True)
        raise


def _summary_of(path: Path) -> int | None:
    """When the summary was written, which every run that began leaves; None: there is none."""
    try:
        return (path / SUMMARY).stat().st_mtime_ns
    except OSError:
        return None
