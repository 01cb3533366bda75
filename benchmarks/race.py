"""Timing side by side: every round runs each contestant once, so that noise falls on all alike."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

Contestant = Callable[[], object]
ROUNDS = 50


def copy_of(source: Tensor) -> Contestant:
    """A plain copy, the floor that memory sets: it moves twice the bytes of `source`."""
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def race(
    benchmark: Any,
    ours: Contestant,
    rivals: Mapping[str, Contestant],
    *,
    moved: int,
    copied: int,
    **labels: str,
) -> dict[str, float]:
    """Times `ours` under pytest-benchmark and each rival beside it; returns the ratios.

    Args:
        benchmark: pytest-benchmark's fixture.
        ours: what is measured.
        rivals: what it is measured against, by name; "copy" is the plain copy.
        moved: bytes that `ours` must read and write.
        copied: bytes that the plain copy reads and writes.
        labels: op, pass, shape, type and layout, for the table.
    """
    contestants = {"ours": ours, **rivals}
    for contestant in contestants.values():
        for _ in range(3):
            contestant()
    times: dict[str, list[float]] = {name: [] for name in rivals}

    def others() -> None:
        for name, rival in rivals.items():
            start = time.perf_counter()
            rival()
            times[name].append(time.perf_counter() - start)

    benchmark.pedantic(ours, setup=others, rounds=ROUNDS, iterations=1)
    seconds = benchmark.stats.stats.median
    medians = {name: statistics.median(values) for name, values in times.items()}
    ratios = {name: median / seconds for name, median in medians.items()}
    quartiles = statistics.quantiles(benchmark.stats.stats.data, n=4)
    benchmark.extra_info.update(
        labels,
        milliseconds=1e3 * seconds,
        spread=(quartiles[2] - quartiles[0]) / seconds,
        gigabytes_per_second=moved / seconds / 1e9,
        share_of_copy=(moved / seconds) / (copied / medians["copy"]),
        **{f"times_{name}": ratio for name, ratio in ratios.items() if name != "copy"},
    )
    return ratios
