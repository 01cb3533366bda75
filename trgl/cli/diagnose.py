"""``trgl diagnose``: what the papers argue from, measured on a trained network."""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trgl import rundir
from trgl.cli.options import chosen_device, seed_number, whole_number
from trgl.cli.resume import check_there
from trgl.data import ImageData, load
from trgl.diagnose import Diagnosis, ModuleDiagnosis, diagnose, draw
from trgl.durable import write_atomically
from trgl.prepare import make_loaders
from trgl.report.cells import aligned
from trgl.report.records import run_directories
from trgl.restore import load_network, read_config
from trgl.strict_json import to_json

_LEGEND = (
    "separable: test accuracy of the linear probe. moved: mean squared displacement in variances "
    "of the input. optimal: least cost between the same inputs and outputs / cost; below 1 the map "
    "is not optimal. cosine: the least between differences of two inputs and of their outputs; "
    "below 0 the map is not optimal. stretch: ‖T(x)−T(y)‖/‖x−y‖ over pairs. Composition: all "
    "modules so far, since the last that changed the shape (stretch: since the first)."
)


def add(commands: Any, arguments: Sequence[str]) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "diagnose",
        help="measure separability, optimality of transport and stability of every module",
        description="Measure every module of trained networks: linear separability of what it puts "
        "out (a logistic regression on training images, tested on test images), its mean squared "
        "displacement, how far it and the composition of all modules so far are from an optimal "
        "transport map (exact assignment of test images), and the ratios of distances behind and "
        f"in front of it. The run directory gets {rundir.DIAGNOSIS}; trgl report shows it.",
    )
    parser.add_argument(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUN",
        help="directory of a run, or of a comparison, which stands for its runs",
    )
    parser.add_argument(
        "--samples",
        type=whole_number,
        default=500,
        metavar="N",
        help="test images for displacements and distances, at least 2; the exact assignment takes "
        "a time cubic in N (default: 500)",
    )
    parser.add_argument(
        "--probe-train",
        type=whole_number,
        default=1000,
        metavar="N",
        help="training images that the linear probes are fitted to, or all where the run had fewer "
        "(default: 1000)",
    )
    parser.add_argument(
        "--probe-test",
        type=whole_number,
        default=1000,
        metavar="N",
        help="test images that they are tested on (default: 1000)",
    )
    parser.add_argument(
        "--seed",
        type=seed_number,
        default=0,
        metavar="N",
        help="of the choice of images (default: 0)",
    )
    parser.add_argument(
        "--data",
        metavar="DIR|FILE.npz",
        help="where the data set is (default: where the run read it)",
    )
    parser.add_argument(
        "--device", default="cpu", metavar="cpu|cuda", help="where to compute (default: cpu)"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Measure every run, and leave and print what came out."""
    device = chosen_device(options)
    if options.samples < 2:
        raise ValueError("--samples must be at least 2, since samples are compared with each other")
    images: dict[tuple[str, str | None, int], ImageData] = {}
    for path, name, _ in run_directories(options.runs):
        config = read_config(path)
        network, recipe = load_network(path)
        source = options.data or config["data"]["read_from"]
        if options.data is None:
            check_there(source, path)
        key = recipe.dataset, source, recipe.image_size
        if key not in images:
            images[key] = load(recipe.dataset, source, image_size=recipe.image_size)
        known = config["data"].get("digest")  # runs of earlier versions have none
        if known not in (None, images[key].digest()):
            raise ValueError(
                f"a run is diagnosed on the images that it was trained on, but {path} was trained "
                f"on others than those in {source or images[key].name}; give their place by "
                f"--data, or put files that were added, removed or changed since back."
            )
        # what the run found in its training images, all of which would have to be read for it
        known_statistics = {name: tuple(config["data"][name]) for name in ("mean", "std")}
        loaders = make_loaders(recipe.override(known_statistics), images[key], config["seed"])
        probe = (
            draw(loaders.plain, options.probe_train, options.seed),
            draw(loaders.test, options.probe_test, options.seed),
        )
        samples, _ = draw(loaders.test, options.samples, options.seed)

        def progress(done: int, of: int, name: str = name) -> None:
            if not options.quiet and sys.stderr.isatty():
                end = "\r\x1b[K" if done == of else ""
                print(f"\r{name}: {done} of {of}{end}", end="", file=sys.stderr, flush=True)

        found = diagnose(network.to(device), samples, probe, progress=progress)
        content = {
            "seed": options.seed,
            "images": "test",
            "state": _state(path),
            **found.as_dict(),
        }
        print(f"{name}: {found.samples} test images; linear probes on {found.probe_train} training "
              f"and {found.probe_test} test images; seed {options.seed}\n")  # fmt: skip
        print(table(found))
        for module in found.modules:
            if module.note:
                print(f"module {module.module} {module.note}.")
        # last: what was measured is told, also where it cannot be written
        write_atomically(path / rundir.DIAGNOSIS, (to_json(content) + "\n").encode())
        print(f"\n{path / rundir.DIAGNOSIS}\n")
    print(textwrap.fill(_LEGEND, 100))
    return 0


def _state(path: Path) -> str:
    """How the run ended, for whom reads the diagnosis later."""
    try:
        return str(json.loads((path / rundir.SUMMARY).read_text())["state"])
    except (OSError, ValueError, KeyError):
        return "unfinished"


def table(found: Diagnosis) -> str:
    """One line for each module."""
    header = [
        "module",
        "separable",
        "moved",
        "optimal",
        "stretch, median",
        "95 %",
        "largest",
        "composition: moved",
        "optimal",
        "cosine",
        "stretch, median",
        "largest",
    ]
    return aligned([header, *map(_row, found.modules)])


def _row(module: ModuleDiagnosis) -> list[str]:
    probe, one, both = module.separability, module.transport, module.composition
    single = module.lipschitz.quantiles if module.lipschitz else {}
    whole = module.composition_lipschitz.quantiles if module.composition_lipschitz else {}
    return [
        str(module.module) if module.module else "input",
        f"{100 * probe.test_accuracy:.1f} %" if probe else "-",
        f"{one.relative:.3g}" if one else "-",
        f"{one.optimality:.4f}" if one else "-",
        *(f"{single[q]:.3g}" if single else "-" for q in (0.5, 0.95, 1.0)),
        f"{both.relative:.3g}" if both else "-",
        f"{both.optimality:.4f}" if both else "-",
        f"{both.least_cosine:.3f}" if both else "-",
        *(f"{whole[q]:.3g}" if whole else "-" for q in (0.5, 1.0)),
    ]
