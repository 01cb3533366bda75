"""``trgl report``: one page that compares runs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trgl.durable import write_atomically
from trgl.report.page import all_figures, is_report, to_html
from trgl.report.png import to_png
from trgl.report.records import read_runs
from trgl.rundir import REPORT

_ELSEWHERE = Path("trgl-report.html")


def add(commands: Any, arguments: Sequence[str]) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "report",
        help="compare runs on one HTML page",
        description="Compare runs on one HTML page: accuracy by depth and epoch, loss, transport "
        "cost and its weight by module, memory, time, what trgl diagnose measured, and settings. "
        "Runs that differ in their seed only are one line with its interval. The page is one file "
        "without scripts; it needs no network.",
    )
    parser.add_argument(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUN",
        help="directory of a run, or of a comparison, which stands for its runs; runs that failed "
        "or still go on are shown as far as they came",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help=f"the page (default: {REPORT} in RUN; {_ELSEWHERE} here for several). An earlier "
        "report is replaced, any other file is not",
    )
    parser.add_argument(
        "--png", type=Path, metavar="DIR", help="also every figure as a PNG in this directory"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Write the page."""
    runs = read_runs(options.runs)
    out: Path = options.out or (options.runs[0] / REPORT if len(options.runs) == 1 else _ELSEWHERE)
    _check(out)
    if options.png is not None and options.png.exists() and not options.png.is_dir():
        raise ValueError(f"--png takes a directory, but {options.png} is a file.")
    write_atomically(out, to_html(runs).encode())
    ended = sum(one.done for one in runs)
    count = "1 run" if len(runs) == 1 else f"{len(runs)} runs"
    print(f"{count}, of which {ended} ended well\nreport:   {out}")
    if options.png is not None:
        options.png.mkdir(parents=True, exist_ok=True)
        for figure in all_figures(runs):
            write_atomically(options.png / f"{figure.key}.png", to_png(figure))
        print(f"pictures: {options.png}")
    return 0


def _check(out: Path) -> None:
    """Refuses a place where no page can be left, or where something else is."""
    if not out.parent.is_dir():
        raise ValueError(f"--out: there is no directory {out.parent}; make it first.")
    if out.is_dir() or (out.exists() and not is_report(out)):
        raise ValueError(
            f"{out} is there already and no report of trgl, so that it is not replaced; choose "
            "another --out."
        )
