"""``trgl export``: a trained network as an ordinary model in a file."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trgl import rundir
from trgl.export import FORMATS, export
from trgl.restore import load_network, read_config

_LOADING = {
    "state-dict": "model.load_state_dict(torch.load({file!r}, weights_only=True))  # model = "
    "network.assemble({depth})",
    "torch-export": "logits = torch.export.load({file!r}).module()(images)",
    "onnx": "onnxruntime.InferenceSession({file!r}).run(None, {{'images': images}})",
}


def add(commands: Any, arguments: Sequence[str]) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "export",
        help="write a trained network as an ordinary model",
        description="Write the modules of a run up to one depth, with the classifier there, as one "
        "ordinary model. The file is read back and run on noise images before it appears: its "
        "logits are the network's, bit by bit for a state-dict, up to rounding otherwise. Programs "
        "take images [N,C,H,W] that are normalized as in training (mean and std stand in "
        "config.json of the run).",
    )
    parser.add_argument("run_directory", type=Path, metavar="RUN", help="directory of a run")
    parser.add_argument(
        "--depth",
        default="last",
        metavar="best|last|N",
        help="how many modules: best is what the validation images chose, N counts from 1 "
        "(default: last)",
    )
    parser.add_argument(
        "--format",
        choices=list(FORMATS),
        default="state-dict",
        metavar="|".join(FORMATS),
        help="; ".join(f"{name}: {text}" for name, text in FORMATS.items())
        + " (default: state-dict)",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the file to write")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a file that is there already"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Write the model."""
    out: Path = options.out
    if not out.parent.is_dir():
        raise ValueError(f"--out: there is no directory {out.parent}; make it first.")
    if out.is_dir() or (out.exists() and not options.overwrite):
        raise ValueError(
            f"{out} is there already; choose another --out, or add --overwrite to replace a file."
        )
    network, recipe = load_network(options.run_directory)
    depth = chosen_depth(options.depth, options.run_directory, len(network))
    if depth < len(network) and read_config(options.run_directory)["method"] == "end-to-end":
        raise ValueError(
            f"end-to-end training trains the last classifier alone, so that depth {depth} of "
            f"{options.run_directory} has none; leave --depth out, or export a run that was "
            f"trained module by module."
        )
    made = export(network, out, depth=depth, format=options.format)
    print(
        f"{recipe.name}, {made.depth} of {len(network)} modules, {made.parameters:,} parameters, "
        f"{made.bytes:,} bytes"
    )
    exact = "equal" if made.difference == 0 else f"equal up to {made.difference:.2g}"
    print(f"logits: {exact} (the largest is {made.largest:.3g})")
    print(f"model:  {made.path}")
    print(f"load:   {_LOADING[made.format].format(file=str(made.path), depth=depth)}")
    return 0


def chosen_depth(text: str, path: Path, modules: int) -> int:
    """A number of modules, from what was typed and what the run found.

    Raises:
        ValueError: no such depth, or none that was chosen on validation images.
    """
    if text == "last":
        return modules
    if text != "best":
        if not text.isdecimal() or not 1 <= int(text) <= modules:
            raise ValueError(
                f"--depth must be best, last or a number of modules from 1 to {modules}, received "
                f"{text!r}."
            )
        return int(text)
    try:
        summary = json.loads((path / rundir.SUMMARY).read_text())
    except FileNotFoundError:
        summary = {}
    best = summary.get("accuracy", {}).get("best_module_by_validation")
    if best is None:
        raise ValueError(
            "--depth best is the module that the validation images chose, but this run has none: "
            "train with --validation-size to the end, or give last or a number. (Choosing on test "
            "images would be no choice.)"
        )
    return int(best["module"])
