"""Timing side by side: every round runs each contestant once, so that noise falls on all alike."""

import functools
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

import trgl_kernels

Contestant = Callable[[], object]
ROUNDS = 50
LEAST = 5e-3  # seconds that a contestant runs in a round: a training loop finds its caches warm


@functools.cache
def engines() -> dict[str, str]:
    """Which engine serves each operator on the CPU."""
    served = trgl_kernels.info()["engines"]
    return {op: devices["cpu"]["engine"] for op, devices in served.items()}


def copy_of(source: Tensor) -> Contestant:
    """A plain copy, the floor that memory sets: it moves twice the bytes of `source`."""
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def rounds_of(contestants: Mapping[str, Contestant]) -> Iterator[dict[str, float]]:
    """Endless rounds: seconds of a call of every contestant, in another order each round.

    The order matters, since a contestant finds in the caches what the one before it left there.
    """
    names, order = list(contestants), random.Random(0)
    calls = {name: int(LEAST / seconds_of(run, 3)) + 1 for name, run in contestants.items()}
    while True:
        order.shuffle(names)
        yield {name: seconds_of(contestants[name], calls[name]) for name in names}


def seconds_of(contestant: Contestant, calls: int) -> float:
    """Mean seconds of some calls in a row."""
    start = time.perf_counter()
    for _ in range(calls):
        contestant()
    return (time.perf_counter() - start) / calls


def race(
    benchmark: Any,
    ours: Contestant,
    rivals: Mapping[str, Contestant],
    *,
    moved: int,
    copied: int,
    **labels: str,
) -> dict[str, float]:
    """Times `ours` and each rival in interleaved rounds, and once more under pytest-benchmark.

    Args:
        benchmark: pytest-benchmark's fixture.
        ours: what is measured.
        rivals: what it is measured against, by name; "copy" is the plain copy.
        moved: bytes that `ours` must read and write.
        copied: bytes that the plain copy reads and writes.
        labels: op, pass, shape, type and layout, for the table.

    Returns:
        Medians of the rivals over the median of `ours`; "itself" is that of `ours` measured twice:
        a ratio nearer to 1 says nothing.
    """
    contestants = {"ours": ours, "itself": ours, **rivals}
    for contestant in contestants.values():
        for _ in range(3):
            contestant()
    rounds = rounds_of(contestants)
    taken: list[dict[str, float]] = []
    benchmark.pedantic(ours, setup=lambda: taken.append(next(rounds)), rounds=ROUNDS, iterations=1)
    times = {name: [one[name] for one in taken] for name in contestants}
    medians = {name: statistics.median(values) for name, values in times.items()}
    seconds = medians.pop("ours")
    ratios = {name: median / seconds for name, median in medians.items()}
    quartiles = statistics.quantiles(times["ours"], n=4)
    benchmark.extra_info.update(
        labels,
        engine=engines().get(labels["op"], "several"),
        milliseconds=1e3 * seconds,
        spread=(quartiles[2] - quartiles[0]) / seconds,
        gigabytes_per_second=moved / seconds / 1e9,
        share_of_copy=(moved / seconds) / (copied / medians["copy"]),
        **{f"times_{name}": ratio for name, ratio in ratios.items() if name != "copy"},
    )
    return ratios
