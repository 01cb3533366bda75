"""Timing side by side: every round runs each contestant once, so that noise falls on all alike."""

import functools
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import trgl_kernels
from trgl_kernels.reference import memory_format

Contestant = Callable[[], object]
ROUNDS = 50
LEAST = 5e-3  # seconds that a contestant runs in a round: a training loop finds its caches warm


@functools.cache
def engines() -> dict[str, str]:
    """Which engine serves each operator on the CPU."""
    served = trgl_kernels.info()["engines"]
    return {op: devices["cpu"]["engine"] for op, devices in served.items()}


class _Watch(TorchDispatchMode):
    """Notes the engines of the operators that the dispatcher calls, forward and backward."""

    def __init__(self) -> None:
        super().__init__()
        self.engines: set[str] = set()

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if op.namespace == "trgl":
            name = op._schema.name.removeprefix("trgl::")
            name = name.removesuffix("_backward").removesuffix("_apply")
            self.engines |= {engines()[name]} if name in engines() else set()
        return op(*args, **(kwargs or {}))


def engines_of(contestant: Contestant) -> str:
    """The engines that serve one call; nothing where none of our operators runs."""
    with _Watch() as watch:
        contestant()
    return ", ".join(sorted(watch.engines))


def copy_of(source: Tensor) -> Contestant:
    """A plain copy, the floor that memory sets: it moves twice the bytes of `source`."""
    source = source.detach()
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
    op: str,
    part: str,
    x: Tensor,
    maps: int | None = None,
) -> None:
    """Times `ours` and each rival in interleaved rounds, and once more under pytest-benchmark.

    The table has medians of the rivals over the median of `ours`; "itself" is that of `ours`
    measured twice: a ratio nearer to 1 says nothing.

    Args:
        benchmark: pytest-benchmark's fixture.
        ours: what is measured.
        rivals: what it is measured against, by name.
        op: what `ours` is, for the table.
        part: what of it is timed.
        x: what it is given: its shape, type and layout are shown.
        maps: how many maps of the size of `x` a single operator must read and write. A plain copy
            of `x` is timed too then. None for whatever does more than move bytes.
    """
    contestants = {"ours": ours, "itself": ours, **rivals}
    if maps is not None:
        contestants["copy"] = copy_of(x)
    served = engines_of(ours)
    for contestant in contestants.values():
        for _ in range(3):
            contestant()
    rounds = rounds_of(contestants)
    taken: list[dict[str, float]] = []
    benchmark.pedantic(ours, setup=lambda: taken.append(next(rounds)), rounds=ROUNDS, iterations=1)
    times = {name: [one[name] for one in taken] for name in contestants}
    medians = {name: statistics.median(values) for name, values in times.items()}
    seconds = medians.pop("ours")
    quartiles = statistics.quantiles(times["ours"], n=4)
    last = memory_format(x) == torch.channels_last
    benchmark.extra_info |= {
        "op": op,
        "pass": part,
        "shape": str(tuple(x.shape)),
        "type": str(x.dtype).removeprefix("torch."),
        "layout": "channels_last" if last else "contiguous",
        "engine": served,
        "milliseconds": 1e3 * seconds,
        "spread": (quartiles[2] - quartiles[0]) / seconds,
    }
    if maps is not None:
        moved, rate = maps * x.nbytes, 2 * x.nbytes / medians.pop("copy")
        benchmark.extra_info |= {
            "mebibytes": moved / 2**20,
            "gigabytes_per_second": moved / seconds / 1e9,
            "share_of_copy": moved / seconds / rate,
        }
    benchmark.extra_info |= {f"times_{name}": median / seconds for name, median in medians.items()}
