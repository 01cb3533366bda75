"""``trgl compare``: several methods over several seeds, side by side."""

from __future__ import annotations

import argparse
import sys
import textwrap
import time
from collections.abc import Sequence
from typing import Any

from trgl.cli.main import FAILED, complain
from trgl.cli.options import (
    add_recipe_options,
    add_run_options,
    chosen_device,
    chosen_images,
    chosen_recipe,
    seed_number,
)
from trgl.cli.progress import Display
from trgl.cli.train import open_directory
from trgl.prepare import Task, prepare
from trgl.recipes import METHODS
from trgl.report import Comparison, draw, to_csv, to_dict, to_markdown
from trgl.report import compare as make_comparison
from trgl.report.tables import difference_table, main_table, percent, time_text
from trgl.report.words import describe
from trgl.run import environment
from trgl.rundir import PICTURE, RUNS, TABLES, RunDirectory
from trgl.workers import Job, Summary, cores, run_all, threads_per_run

_MOST_SEEDS = 10_000


def add(commands: Any, arguments: Sequence[str]) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "compare",
        help="train by several methods over several seeds, and compare",
        description="Train by several methods over several seeds. Runs of one seed share their "
        "training images, initial weights, order and crops. The directory gets table.md, "
        "table.csv, table.json, accuracy_by_depth.png and the run directory of every run.",
    )
    parser.add_argument(
        "--seeds",
        type=seeds,
        default=[0, 1, 2],
        metavar="SEEDS",
        help="a range or a list: 0-4, or 0,1,2; one number is that one seed (default: 0-2)",
    )
    parser.add_argument(
        "--methods",
        type=methods,
        default=list(METHODS),
        metavar="METHOD,...",
        help=f"some of {', '.join(METHODS)} (default: all)",
    )
    parser.add_argument(
        "--jobs",
        type=jobs,
        default=None,
        metavar="N",
        help="runs side by side, each a process (default: as many as cores for recipes of one "
        "thread on the CPU, else 1). The figures do not depend on it as long as --threads is not 0",
    )
    add_run_options(parser)
    add_recipe_options(parser, arguments)
    parser.set_defaults(run=run)


def seeds(text: str) -> list[int]:
    """``0-4`` or ``0,1,2`` as numbers, each once."""
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise argparse.ArgumentTypeError(
                f"a range like 0-4 or a list like 0,1,2 of numbers from 0 on expected, "
                f"received {text!r}"
            )
        low, high = seed_number(first), seed_number(last or first)
        if high < low:
            raise argparse.ArgumentTypeError(f"a range goes upwards, received {part.strip()!r}")
        if high - low >= _MOST_SEEDS:
            raise argparse.ArgumentTypeError(
                f"a range of at most {_MOST_SEEDS} seeds expected, received {part.strip()!r}"
            )
        found += range(low, high + 1)
    if len(set(found)) < len(found):
        raise argparse.ArgumentTypeError(f"each seed once expected, received {text!r}")
    return found


def methods(text: str) -> list[str]:
    """A list of methods, each once."""
    found = [part.strip() for part in text.split(",")]
    unknown = [name for name in found if name not in METHODS]
    if unknown or len(set(found)) < len(found):
        raise argparse.ArgumentTypeError(
            f"some of {', '.join(METHODS)}, each once, separated by commas, expected, received "
            f"{text!r}"
        )
    return found


def jobs(text: str) -> int:
    """A number of processes."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a whole number from 1 on expected, received {text!r}")
    return int(text)


def run(options: argparse.Namespace) -> int:
    """Train every method with every seed."""
    recipe = chosen_recipe(options)
    device = chosen_device(options)
    images = chosen_images(options, recipe)
    count = len(options.seeds) * len(options.methods)
    side_by_side = options.jobs
    if side_by_side is None:
        side_by_side = cores() if recipe.threads == 1 and device == "cpu" else 1
    side_by_side = min(side_by_side, count)
    threads = threads_per_run(recipe.threads, side_by_side)
    places = (options.data, options.cache, options.offload)
    tasks = [
        Task(recipe, method, seed, device, threads, *places)
        for seed in options.seeds
        for method in options.methods
    ]
    prepare(tasks[0], images)  # a wrong option is found before anything is written
    started = time.monotonic()
    display = Display(count, options.quiet)
    finished: dict[str, Summary] = {}

    def done(job: Job, summary: Summary) -> None:
        finished[job.task.label] = summary
        label = f"{job.task.method}, seed {job.task.seed}"
        if summary["state"] != "done":
            display.finished(f"{label}: failed: {summary['reason']}")
            if options.traceback and "traceback" in summary:
                print(summary["traceback"], end="", file=sys.stderr, flush=True)
            return
        accuracy = summary["accuracy"]["last_module_last_epoch"]
        display.finished(f"{label}: {percent(accuracy)} after {summary['seconds']:.0f} s")

    display.announce()
    with open_directory(options, f"compare-{recipe.name}") as directory:
        directory.write_config(
            {
                "recipe": recipe.as_dict(),
                "sources": dict(recipe.sources),
                "methods": options.methods,
                "seeds": options.seeds,
                RUNS: [task.label for task in tasks],
                "jobs": side_by_side,
                "threads": threads,
                "device": device,
                "data": options.data,
                "command": sys.argv,
                **environment(),
            }
        )
        work = [Job(task, directory.path / task.label) for task in tasks]
        try:
            run_all(work, images, side_by_side, display.update, done)
        finally:
            display.clear()
            summaries = [finished[task.label] for task in tasks if task.label in finished]
            if summaries:  # also of a comparison that was interrupted
                result = make_comparison(
                    recipe.as_dict(),
                    summaries,
                    dataset=images.name,
                    note=images.note,
                    seeds=options.seeds,
                    methods=options.methods,
                    side_by_side=side_by_side,
                )
                _write(directory, result)
        path = directory.path
    markdown, table, machine = TABLES
    print(textwrap.fill(describe(result), 100), main_table(result), sep="\n\n")
    print("\n" + time_text(result))
    if result.differences:
        print("\n" + difference_table(result))
    seconds = round(time.monotonic() - started)
    print(f"\n{count} runs in {seconds // 60} min {seconds % 60} s, {side_by_side} side by side")
    print(f"tables:  {path / markdown}, {table}, {machine}\npicture: {path / PICTURE}")
    failed = [summary for summary in summaries if summary["state"] != "done"]
    if failed:
        complain(f"trgl: failed: {len(failed)} of {count} runs: {failed[0]['reason']}")
        return FAILED
    return 0


def _write(directory: RunDirectory, result: Comparison) -> None:
    markdown, table, machine = TABLES
    directory.write(markdown, to_markdown(result).encode())
    directory.write(table, to_csv(result).encode())
    directory.write_json(machine, to_dict(result))
    directory.write(PICTURE, draw(result))
