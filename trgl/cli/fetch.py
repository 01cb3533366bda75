"""``trgl fetch``: a published data set, verified, in a directory for ``--data``."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trgl.data import FETCHABLE, fetch

_REDRAW_SECONDS = 0.2
_PLAIN_STEPS = 4
_MIB = 2**20


def add(commands: Any, arguments: Sequence[str]) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "fetch",
        help="fetch a data set and verify it",
        description="Fetch a published data set and verify its checksums. The directory then is "
        "what --data takes. A fetch that was cut off goes on where it was when it is run again; a "
        "data set that is there already is verified.",
    )
    parser.add_argument(
        "dataset", metavar="DATASET", choices=FETCHABLE, help=f"one of {', '.join(FETCHABLE)}"
    )
    parser.add_argument(
        "--to",
        metavar="DIR",
        type=Path,
        required=True,
        help="the directory to put it into; made where it is not there",
    )
    parser.add_argument(
        "--mirror",
        metavar="ADDRESS",
        help="of a folder that has the published files under their names, http://, https:// or "
        "file:// (default: the published addresses)",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Fetch and verify a data set."""
    display = _Display(options.quiet)
    try:
        place = fetch(options.dataset, options.to, mirror=options.mirror, progress=display.update)
    finally:
        display.clear()
    print(f"{options.dataset} is in {place}, verified; use it with --data {options.to}")
    return 0


class _Display:
    """How much of a file has arrived: a moving line on a terminal, plain lines elsewhere."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._terminal = sys.stderr.isatty()
        self._drawn = 0.0
        self._told: tuple[str, int] = ("", 0)

    def update(self, name: str, received: int, total: int | None) -> None:
        if self._quiet:
            return
        text = f"{name}: {received / _MIB:.1f} MiB"
        if total:
            text = f"{name}: {received / _MIB:.1f} of {total / _MIB:.1f} MiB"
        now = time.monotonic()
        if self._terminal:
            if now - self._drawn > _REDRAW_SECONDS or received == total:
                self._drawn = now
                print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
            return
        step = (name, _PLAIN_STEPS * received // total if total else 0)
        if step != self._told:
            self._told = step
            print(text, file=sys.stderr, flush=True)

    def clear(self) -> None:
        if self._terminal and not self._quiet:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
