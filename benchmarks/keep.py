"""Keeps the figures of races: what pytest-benchmark wrote, as the rows of a table and as JSON.

    python benchmarks/keep.py NAME FILE.json [FILE.json...]

writes benchmarks/results/NAME.json and NAME.md, with the machine, versions and the commit that was
measured.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from conftest import table

from trgl.durable import write_atomically

RESULTS = Path(__file__).parent / "results"


def kept(paths: list[Path]) -> dict[str, Any]:
    """The rows of all files, and of what machine and commit they are.

    Raises:
        ValueError: the files are not of one machine and one commit.
    """
    written = [json.loads(path.read_text()) for path in paths]
    sources = {
        (one["machine_info"]["cpu"].get("brand_raw"), one["commit_info"]["id"]) for one in written
    }
    if len(sources) > 1:
        raise ValueError(
            f"figures of one machine and commit belong together; received those of {sources}. "
            f"Keep them under names of their own."
        )
    processor, commit = sources.pop()
    return {
        "processor": processor,
        "threads": 2,
        "torch": torch.__version__,
        "commit": commit,
        "changed_after_commit": any(one["commit_info"]["dirty"] for one in written),
        "rows": [
            race["extra_info"]
            for one in written
            for race in one["benchmarks"]
            if "op" in race["extra_info"]
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name")
    parser.add_argument("files", nargs="+", type=Path)
    options = parser.parse_args()
    found = kept(options.files)
    head = (
        f"{found['processor']}, {found['threads']} threads, torch {found['torch']}, commit "
        f"{found['commit'][:7]}. × is the other's time divided by ours, medians of 50 "
        f"shuffled rounds."
    )
    text = "\n".join([head, "", *table(found["rows"])]) + "\n"
    content = json.dumps(found, indent=1) + "\n"
    write_atomically(RESULTS / f"{options.name}.json", content.encode())
    write_atomically(RESULTS / f"{options.name}.md", text.encode())


if __name__ == "__main__":
    main()
