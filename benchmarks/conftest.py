"""One table of all races, and what the machine is."""

import platform
from typing import Any

import pytest
import torch

import trgl_kernels

COLUMNS = {
    "op": "{}",
    "pass": "{}",
    "shape": "{}",
    "type": "{}",
    "layout": "{}",
    "engine": "{}",
    "milliseconds": "{:.3f}",
    "spread": "{:.0%}",
    "mebibytes": "{:.4g}",
    "gigabytes_per_second": "{:.1f}",
    "share_of_copy": "{:.0%}",
    "times_itself": "{:.3f}",
    "times_eager": "{:.2f}",
    "times_eager_contiguous": "{:.2f}",
    "times_eager_without_penalty": "{:.2f}",
    "times_compiled": "{:.2f}",
    "times_end_to_end": "{:.2f}",
    "times_penalty_off": "{:.3f}",
    "times_recompute_activation": "{:.2f}",
    "times_recompute_none": "{:.2f}",
    "times_without_boundary": "{:.3f}",
    "times_finding_always": "{:.3f}",
    "times_in_this_process": "{:.2f}",
    "times_torchvision": "{:.2f}",
}
HEADINGS = {
    "milliseconds": "ms",
    "spread": "± quartiles",
    "mebibytes": "MiB moved",
    "gigabytes_per_second": "GB/s",
    "share_of_copy": "of a copy",
    "times_itself": "× itself",
    "times_eager": "× eager",
    "times_eager_contiguous": "× eager, contiguous",
    "times_eager_without_penalty": "× eager, no penalty",
    "times_compiled": "× torch.compile",
    "times_end_to_end": "× our blocks end to end",
    "times_penalty_off": "× ours, penalty off",
    "times_recompute_activation": "× ours, activations rebuilt",
    "times_recompute_none": "× ours, activations kept",
    "times_without_boundary": "× ours, no boundary",
    "times_finding_always": "× ours, finding in every step",
    "times_in_this_process": "× read in this process",
    "times_torchvision": "× torchvision's, as many processes",
}


def pytest_configure() -> None:
    torch.set_num_threads(2)


def pytest_report_header() -> str:
    facts = trgl_kernels.info()
    versions, simd = facts["versions"], facts["extension"]["simd"]
    return (
        f"trgl {versions['trgl']}, torch {versions['torch']}, {simd or 'no compiled engine'}, "
        f"{platform.processor() or platform.machine()}, 2 threads"
    )


def table(rows: list[dict[str, Any]]) -> list[str]:
    """The rows in Markdown, without the columns that no row has."""
    columns = [name for name in COLUMNS if any(name in row for row in rows)]
    lines = ["| " + " | ".join(HEADINGS.get(name, name) for name in columns) + " |"]
    lines.append("|" + "---|" * len(columns))
    for row in rows:
        cells = [COLUMNS[name].format(row[name]) if name in row else "" for name in columns]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    session = getattr(config, "_benchmarksession", None)
    rows = (
        [dict(b.extra_info) for b in session.benchmarks if "op" in b.extra_info] if session else []
    )
    if rows:
        terminalreporter.section("× is the other's time divided by ours, medians")
        for line in table(rows):
            terminalreporter.write_line(line)
