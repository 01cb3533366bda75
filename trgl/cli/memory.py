"""``trgl memory``: what training a network takes, before it is trained."""

from __future__ import annotations

import argparse
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from trgl.cli.options import chosen_device, whole_number
from trgl.durable import write_atomically
from trgl.heads import HEADS
from trgl.measure import Measured
from trgl.memory_table import METHODS, Plan, Row, check, methods_for, rows
from trgl.strict_json import to_json
from trgl.zoo import MODELS, subject
from trgl_kernels.extension import notice

_UNITS = {"b": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
_UNITS |= {"kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_MIB = 2**20
_NOTES = (
    "saved: what the heaviest module keeps between forward and backward; peak: the most that lives "
    "at a time in a step, without parameters, gradients and optimizer state; both predicted from "
    "shapes, in MiB and in % of end-to-end training."
)
_CPU_NOTE = (
    "measured: the same peak, from every allocation and release of torch's CPU allocator. scratch: "
    "with what the library of convolutions takes in addition. process: the resident memory, which "
    "holds the interpreter, torch, weights and whatever the C library did not give back as well."
)
_REFERENCE_NOTE = (
    "The peaks are those of the compiled operators. The reference, which serves the CPU here, "
    "holds temporaries of its own besides: "
)
_GPU_NOTE = (
    "predicted and allocated: everything that lives, parameters and optimizer state too. Reserved "
    "is more, because the allocator keeps freed blocks for later; device is still more (and what "
    "nvidia-smi shows), because it has the driver's context, libraries and other processes."
)


def add(commands: Any, arguments: Sequence[str]) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "memory",
        help="predict the memory of training, and the largest batch that fits",
        description="Predict what training a network takes, end to end and module by module. "
        "Nothing is computed and nothing allocated: any batch on any machine. SGD with momentum is "
        "the optimizer.",
    )
    parser.add_argument(
        "model", metavar="MODEL", help=f"{MODELS}; or a recipe (trgl recipes), with its own heads"
    )
    parser.add_argument(
        "--input-shape",
        type=_shape,
        default=None,
        metavar="CxHxW",
        help="of one image, in channels and pixels (default: 3x32x32; a recipe's own)",
    )
    parser.add_argument(
        "--batch",
        type=whole_number,
        default=None,
        metavar="N",
        help="in images (default: 64; a recipe's own)",
    )
    parser.add_argument(
        "--modules",
        type=_numbers,
        default=None,
        metavar="K,K,...",
        help="numbers of modules (default: 2,4; a recipe's own)",
    )
    parser.add_argument(
        "--classes",
        type=whole_number,
        default=None,
        metavar="N",
        help="number of classes (default: 10; a recipe's own)",
    )
    parser.add_argument(
        "--head",
        choices=tuple(HEADS),
        default=None,
        metavar="|".join(HEADS),
        help="classifier of every module (default: conv, pool-linear for transformers and timm's; "
        "a recipe's own)",
    )
    parser.add_argument(
        "--methods",
        type=_methods,
        default=None,
        metavar="METHOD,...",
        help="some of "
        + "; ".join(f"{name}: {text}" for name, text in METHODS.items())
        + "; end-to-end always comes first, to compare with (default: all; without a penalty alone "
        "for a DenseNet)",
    )
    parser.add_argument(
        "--autocast", choices=("bfloat16",), default=None, help="mixed precision (default: none)"
    )
    parser.add_argument("--per-module", action="store_true", help="also a line for each module")
    parser.add_argument(
        "--fit",
        type=_bytes,
        default=None,
        metavar="SIZE",
        help="also the largest batch, from 2 images on, whose predicted peak, with parameters, "
        "gradients and optimizer state, fits in SIZE: a number with its unit (B, kB, KiB, MB, MiB, "
        "GB, GiB, TB or TiB), such as 8GiB; none where 2 images do not fit",
    )
    parser.add_argument(
        "--measure",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="also train two batches of noise, and measure (default: yes on a GPU, no on a CPU)",
    )
    parser.add_argument(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        metavar="cpu|cuda",
        help="for which to predict, and where to measure (default: cuda where there is one)",
    )
    parser.add_argument(
        "--json", type=Path, default=None, metavar="FILE", help="write everything, in bytes"
    )
    parser.set_defaults(run=run)


def _check_writable(file: Path) -> None:
    """Refuses a place where the table could not be left, before it is computed."""
    folder = file.parent
    if not folder.is_dir():
        raise ValueError(f"--json: there is no directory {folder}; make it first.")
    if file.is_dir() or str(file) == "-" or not os.access(folder, os.W_OK):
        raise ValueError(
            f"--json takes the name of a file in a directory that can be written to, but got "
            f"{file}. Give another name, such as memory.json."
        )


def run(options: argparse.Namespace) -> int:
    """Print the table, row by row as it is found."""
    device = chosen_device(options)
    chosen = subject(options.model, options.input_shape, options.classes, options.head)
    if options.json is not None:
        _check_writable(options.json)
    plan = Plan(
        subject=chosen,
        batch=options.batch or chosen.batch,
        modules=options.modules or chosen.modules or (2, 4),
        methods=tuple(options.methods or methods_for(chosen)),
        device=device,
        autocast=None if options.autocast is None else torch.bfloat16,
        fit=options.fit,
        measure=device != "cpu" if options.measure is None else options.measure,
    )
    check(plan)
    shape = "x".join(map(str, chosen.shape))
    print(f"{options.model}, {shape}, batch {plan.batch}, {options.autocast or 'float32'}")
    print(_header(plan), flush=True)
    found: list[Row] = []
    for row in rows(plan):
        found.append(row)
        for line in _lines(row, found[0], plan, options.per_module):
            print(line, flush=True)
    print(f"\n{_NOTES}")
    missing = notice()
    if missing is not None and device == "cpu":
        print(f"{_REFERENCE_NOTE}{missing}")
    if plan.measure:
        print(_CPU_NOTE if device == "cpu" else _GPU_NOTE)
    if options.json is not None:
        content = {
            "model": options.model,
            "input_shape": list(chosen.shape),
            "batch": plan.batch,
            "autocast": options.autocast,
            "device": device,
            "fit": plan.fit,
            "rows": [row.as_dict() for row in found],
        }
        write_atomically(options.json, (to_json(content) + "\n").encode())
    return 0


def _header(plan: Plan) -> str:
    columns = f"{'K':>3}  {'method':24}{'saved':>9}{'%':>7}{'peak':>9}{'%':>7}"
    if plan.measure and plan.device == "cpu":
        columns += f"{'measured':>10}{'scratch':>9}{'process':>9}"
    elif plan.measure:
        columns += f"{'predicted':>11}{'allocated':>11}{'reserved':>10}{'device':>9}"
    if plan.fit is not None:
        columns += f"{'fits':>9}"
    return columns


def _lines(row: Row, first: Row, plan: Plan, per_module: bool) -> list[str]:
    heaviest, peak = (max(row.saved_totals), max(p.activations for p in row.peaks))
    whole = (max(first.saved_totals), max(p.activations for p in first.peaks))
    text = f"{row.modules:>3}  {row.method:24}"
    for value, base in ((heaviest, whole[0]), (peak, whole[1])):
        text += f"{value / _MIB:>9.1f}{100 * value / base:>7.1f}"
    if row.measured and plan.device == "cpu":
        text += f"{max(m.activations or 0 for m in row.measured) / _MIB:>10.1f}"
        text += f"{max(m.allocated for m in row.measured) / _MIB:>9.1f}"
        text += f"{max(m.process or 0 for m in row.measured) / _MIB:>9.0f}"
    elif row.measured:
        text += f"{max(p.total for p in row.peaks) / _MIB:>11.1f}"
        text += f"{max(m.allocated for m in row.measured) / _MIB:>11.1f}"
        text += f"{max(m.reserved or 0 for m in row.measured) / _MIB:>10.1f}"
        text += f"{max(m.process or 0 for m in row.measured) / _MIB:>9.0f}"
    if row.fits is not None:
        text += f"{row.fits or 'none':>9}"
    lines = [text]
    if per_module:
        measured: Sequence[Measured | None] = row.measured or [None] * len(row.saved)
        for saved, peaks, count, step in zip(
            row.saved, row.peaks, row.blocks, measured, strict=True
        ):
            body = sum(size for _, size in saved.blocks)
            parts = f"{saved.input / _MIB:.1f} input + {body / _MIB:.1f} body"
            lines.append(
                f"       module {saved.number}, {count} layers or blocks: saved "
                f"{saved.total / _MIB:.1f} = {parts} + {saved.head / _MIB:.1f} head; "
                f"peak {peaks.activations / _MIB:.1f}"
                + ("" if step is None else f", {_measured(step)}")
            )
    return lines


def _measured(step: Measured) -> str:
    if step.activations is None:
        return f"allocated {step.allocated / _MIB:.1f}"
    return f"measured {step.activations / _MIB:.1f}"


def _shape(text: str) -> tuple[int, ...]:
    parts = text.lower().split("x")
    if len(parts) != 3 or not all(part.isdecimal() and 0 < int(part) < 2**31 for part in parts):
        raise argparse.ArgumentTypeError(
            f"channels, height and width like 3x96x96 expected, received {text!r}"
        )
    return tuple(map(int, parts))


def _numbers(text: str) -> tuple[int, ...]:
    found = tuple(whole_number(part.strip()) for part in text.split(","))
    if len(set(found)) < len(found):
        raise argparse.ArgumentTypeError(
            f"numbers of modules, each once, separated by commas, expected, received {text!r}"
        )
    return found


def _methods(text: str) -> tuple[str, ...]:
    found = tuple(part.strip() for part in text.split(","))
    unknown = [name for name in found if name not in METHODS]
    if unknown or len(set(found)) < len(found):
        raise argparse.ArgumentTypeError(
            f"some of {', '.join(METHODS)}, each once, separated by commas, expected, received "
            f"{text!r}"
        )
    return found


def _bytes(text: str) -> int:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", text)
    unit = None if match is None else _UNITS.get(match[2].lower())
    size = 0.0 if match is None or unit is None else float(match[1]) * unit
    if not 1 <= size < math.inf:
        raise argparse.ArgumentTypeError(
            f"a size of at least one byte with its unit, like 8GiB or 500MiB, expected, received "
            f"{text!r}"
        )
    return int(size)
