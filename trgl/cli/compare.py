"""``trgl compare``: several methods over several seeds, side by side."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import textwrap
import time
from collections.abc import Sequence
from typing import Any

from trgl.cli.messages import FAILED, complain
from trgl.cli.options import (
    add_recipe_options,
    add_run_options,
    chosen_device,
    chosen_images,
    chosen_recipe,
    chosen_tensorboard,
    seed_number,
    whole_number,
)
from trgl.cli.progress import Display
from trgl.cli.resume import add_checkpoint_options, saving, take_up
from trgl.cli.spelling import as_typed
from trgl.cli.train import open_directory
from trgl.prepare import Task, prepare
from trgl.recipe_memory import bytes_by_method
from trgl.recipes import FIGURES, METHODS, Recipe
from trgl.recipes.published import row_of
from trgl.report import Comparison, draw, to_csv, to_dict, to_markdown
from trgl.report import compare as make_comparison
from trgl.report.beside import beside
from trgl.report.cells import percent
from trgl.report.sweep import draw_sweep, swept
from trgl.report.tables import (
    depth_table,
    difference_table,
    main_table,
    preferred_text,
    time_text,
)
from trgl.report.words import TRANSPORT_OF, describe
from trgl.restore import is_done
from trgl.run import environment
from trgl.rundir import (
    PICTURE,
    RUNS,
    SUMMARY,
    SWEEP_PICTURE,
    TABLES,
    RunDirectory,
    from_anywhere,
)
from trgl.workers import Job, Summary, cores, run_all, threads_per_run

_MOST_SEEDS = 10_000


def add(commands: Any, arguments: Sequence[str]) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "compare",
        help="train by several methods over several seeds, and compare",
        description="Train by several methods over several seeds. Runs of one seed share their "
        "training images, initial weights, order and crops. The directory gets table.md, "
        "table.csv, table.json, accuracy_by_depth.png and the run directory of every run. Beside "
        "the figures of a recipe from a table stand the published ones, and what keeps them apart.",
    )
    parser.add_argument(
        "--seeds",
        type=seeds,
        metavar="SEEDS",
        help="a range or a list: 0-4, or 0,1,2; one number is that one seed (default: 0-2)",
    )
    parser.add_argument(
        "--methods",
        type=methods,
        metavar="METHOD,...",
        help=f"some of {', '.join(METHODS)} (default: all; for a published figure, those it shows)",
    )
    parser.add_argument(
        "--jobs",
        type=whole_number,
        default=None,
        metavar="N",
        help="runs side by side, each a process (default: as many as cores for recipes of one "
        "thread on the CPU, else 1). The figures do not depend on it as long as --threads is not 0",
    )
    add_run_options(parser)
    add_checkpoint_options(parser, "comparison")
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


def run(options: argparse.Namespace) -> int:
    """Train every method with every seed."""
    config = None if options.resume is None else take_up(options, comparison=True)
    recipe = chosen_recipe(options)
    device = chosen_device(options)
    tensorboard = chosen_tensorboard(options)
    images = chosen_images(options, recipe)
    variants = chosen_variants(options, recipe)
    options.seeds = options.seeds or [0, 1, 2]
    count = len(options.seeds) * len(variants)
    side_by_side = options.jobs
    if side_by_side is None:
        side_by_side = cores() if recipe.threads == 1 and device == "cpu" else 1
    side_by_side = min(side_by_side, count)
    threads = config["threads"] if config else threads_per_run(recipe.threads, side_by_side)
    places = (options.data, options.cache, options.offload)
    tasks = [
        Task(
            one,
            method,
            seed,
            device,
            threads,
            *places,
            *saving(options),
            tensorboard,
            variant=name if one != recipe else "",
        )
        for seed in options.seeds
        for name, (method, one) in variants.items()
    ]
    # a wrong option is found before anything is written; nothing comes of this encoder's training
    brief = recipe.override({"pretrain_epochs": 1, "taus": ()})
    first = dataclasses.replace(tasks[0], recipe=brief)
    prepared = prepare(first, images, trained=config is not None)
    memory = bytes_by_method(recipe, prepared.network) if row_of(recipe.as_dict()) else {}
    del prepared  # its weights, too, would be in what the runs take of a device
    started = time.monotonic()
    display = Display(count, options.quiet)
    finished: dict[str, Summary] = {}

    def done(job: Job, summary: Summary) -> None:
        finished[job.task.label] = summary
        label = f"{job.task.variant or job.task.method}, seed {job.task.seed}"
        if summary["state"] != "done":
            display.finished(f"{label}: failed: {as_typed(summary['reason'], options)}")
            if options.traceback and "traceback" in summary:
                print(summary["traceback"], end="", file=sys.stderr, flush=True)
            return
        accuracy = summary["accuracy"]["last_module_last_epoch"]
        text = f"{label}: {percent(accuracy)} after {summary['seconds']:.0f} s"
        display.finished(text, job.task.label)

    display.announce()
    with open_directory(options, f"compare-{recipe.name}") as directory:
        if config is None:
            directory.write_config(
                {
                    "recipe": recipe.as_dict(),
                    "sources": dict(recipe.sources),
                    "methods": list(variants),
                    "chosen": {"recipe": options.recipe, "methods": options.methods},
                    "seeds": options.seeds,
                    RUNS: [task.label for task in tasks],
                    "jobs": side_by_side,
                    "threads": threads,
                    "device": device,
                    "data": from_anywhere(options.data),
                    "cache": from_anywhere(options.cache),
                    "offload": options.offload,
                    "tensorboard": tensorboard,
                    "checkpoints": dict(zip(("every", "keep"), saving(options), strict=True)),
                    "command": sys.argv,
                    **environment(device),
                }
            )
        work = []
        for task in tasks:
            out = directory.path / task.label
            if config is not None and is_done(out):
                done(Job(task, out), json.loads((out / SUMMARY).read_text()))
            else:
                work.append(Job(task, out, resume=config is not None))
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
                    methods=list(variants),
                    side_by_side=side_by_side,
                    memory=memory,
                )
                _write(directory, result)
        path = directory.path
    markdown, table, machine = TABLES
    print(_wrapped(describe(result)), main_table(result), sep="\n\n")
    print("\n" + time_text(result))
    if result.differences:
        print("\n" + difference_table(result))
    if preferred := preferred_text(result):
        print("\n" + _wrapped(preferred))
    if options.recipe in FIGURES:
        figure = FIGURES[options.recipe]
        print("\n" + depth_table(result))
        print("\n" + _wrapped(f"{figure.place}: {figure.found}."))
    for part in beside(result):
        lines = part.splitlines()
        tabular = lines[0].startswith("|")
        print("\n" + (part if tabular else "\n".join(_wrapped(line) for line in lines)))
    seconds = round(time.monotonic() - started)
    runs = "1 run" if count == 1 else f"{count} runs"
    print(f"\n{runs} in {seconds // 60} min {seconds % 60} s, {side_by_side} side by side")
    pictures = [str(path / PICTURE)] + [SWEEP_PICTURE] * (len(swept(result)) > 1)
    print(f"tables:  {path / markdown}, {table}, {machine}\npicture: {', '.join(pictures)}")
    failed = [summary for summary in summaries if summary["state"] != "done"]
    if failed:
        reason = as_typed(failed[0]["reason"], options)
        complain(f"trgl: failed: {len(failed)} of {count} runs: {reason}")
        return FAILED
    return 0


def _wrapped(line: str) -> str:
    return textwrap.fill(line, 100, break_on_hyphens=False)


def chosen_variants(options: argparse.Namespace, recipe: Recipe) -> dict[str, tuple[str, Recipe]]:
    """What is compared, by name: methods, and the transport penalty once for every tau of a sweep.

    Raises:
        ValueError: a sweep without the method that has a tau.
    """
    figure = FIGURES.get(options.recipe)
    chosen = options.methods or (["vanilla", "transport"] if figure else list(METHODS))
    if recipe.taus and "transport" not in chosen:
        raise ValueError(
            f"taus are swept over by the method transport, received the methods "
            f"{', '.join(chosen)}; add it, or give --taus ''."
        )
    found: dict[str, tuple[str, Recipe]] = {}
    for method in chosen:
        if method != "transport" or not recipe.taus:
            found[method] = (method, recipe)
            continue
        for tau in recipe.taus:
            one = recipe.override({"tau": tau, "taus": ()}, "the sweep")
            found[f"{TRANSPORT_OF}{tau:g}"] = (method, one)
    return found


def _write(directory: RunDirectory, result: Comparison) -> None:
    markdown, table, machine = TABLES
    directory.write(markdown, to_markdown(result).encode())
    directory.write(table, to_csv(result).encode())
    directory.write_json(machine, to_dict(result))
    directory.write(PICTURE, draw(result))
    if len(swept(result)) > 1:
        directory.write(SWEEP_PICTURE, draw_sweep(result))
