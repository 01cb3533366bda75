"""``trgl info``: versions, the compiled extension, and which engine serves which operator."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

import trgl_kernels
from trgl.strict_json import to_json


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


def lines(facts: Mapping[str, Any]) -> list[str]:
    """What ``trgl_kernels.info`` knows, in lines for people."""
    versions = facts["versions"]
    width = max(map(len, versions))
    found = [f"{name:{width}}  {version or 'not installed'}" for name, version in versions.items()]
    return [
        *found,
        "",
        *_extension(facts["extension"]),
        *_boundary(facts["boundary"]),
        "",
        *_engines(facts["engines"]),
    ]


def _boundary(boundary: Mapping[str, Any]) -> list[str]:
    if boundary["release"]:
        return ["module boundaries: release what is still held"]
    return ["module boundaries: reference counting only, what is still held is reported"]


def _extension(extension: Mapping[str, Any]) -> list[str]:
    build = extension["build"] or {}
    if extension["loaded"]:
        found = [
            f"compiled extension: loaded, vector instructions {extension['simd'] or 'unknown'}"
        ]
    else:
        found = [f"compiled extension: not loaded, because {extension['reason']}"]
        if extension["remedy"]:
            found.append(f"  remedy: {extension['remedy']}")
    shown = ("time", "torch", "compiler", "flags", "cuda")
    for key in (key for key in shown if build.get(key) is not None):
        value = build[key]
        if isinstance(value, bool):
            value = "yes" if value else "no"
        text = " ".join(value) if isinstance(value, list) else str(value)
        found.append(f"  built, {key}: {text}")
    return found


def _engines(engines: Mapping[str, Any]) -> list[str]:
    found = ["who computes what (compiled: C++; triton: GPU kernels; reference: plain PyTorch)"]
    for operator, devices in engines.items():
        for device, entry in devices.items():
            found.append(f"  {operator} on {device}: {entry['engine']}")
            found += [f"    not {name}: {reason}" for name, reason in entry["why_not"].items()]
    return found
