"""``trgl info``: versions, the compiled extension, and which engine serves which operator."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

import trgl_kernels
from trgl.rundir import to_json


def add(commands: Any, arguments: Sequence[str]) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "info",
        help="show versions, and which engine computes what",
        description="Show versions, how the extension was built, which engine serves which "
        "operator on which device, and why not another.",
    )
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print what ``trgl_kernels.info`` knows."""
    facts = trgl_kernels.info()
    print(to_json(facts) if options.json else "\n".join(lines(facts)))
    return 0


def lines(value: Any, indent: int = 0) -> list[str]:
    """A nested dictionary as indented lines."""
    space = "  " * indent
    found: list[str] = []
    for key, item in value.items():
        name = str(key).replace("_", " ")
        if isinstance(item, Mapping) and item:
            found += [f"{space}{name}", *lines(item, indent + 1)]
        else:
            found.append(f"{space}{name}: {_plain(item)}")
    return found


def _plain(value: Any) -> str:
    if value is None or value == {} or value == []:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return str(value)
