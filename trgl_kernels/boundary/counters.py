"""What a boundary reports: bytes, and what was held."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from .memory import SMALL

Fields = tuple[int, int, int | None, int, int, int]


class BoundaryWarning(UserWarning):
    """Something held what a module's step made; the message says what."""


class Bytes(NamedTuple):
    """What csrc/boundary/scope.h counts, less what may outlive the scope where it says so."""

    requested: int
    live: int
    unexplained: int  # CPU storages of more than SMALL bytes
    peak: int
    device_requested: int
    device_growth: int
    device_unexplained: int
    device_peak: int  # -1: not known

    @property
    def disagree(self) -> bool:
        """Whether something lives that should have died."""
        return self.unexplained > 0 or self.device_unexplained > SMALL

    def counters(self, forced: int, crossed: int) -> Fields:
        """The fields of `Counters` of this step."""
        peak = self.device_peak if self.device_requested else self.peak
        return (
            1,
            self.requested + self.device_requested,
            None if peak < 0 else peak,
            self.requested - self.live + self.device_requested - self.device_growth,
            forced,
            crossed,
        )


def add(sums: Fields, step: Fields) -> Fields:
    """The fields of `Counters` of several steps."""
    steps, allocated, highest, counted, forced, crossed = sums
    peaks = [peak for peak in (highest, step[2]) if peak is not None]
    return (
        steps + step[0],
        allocated + step[1],
        max(peaks, default=None),
        counted + step[3],
        forced + step[4],
        crossed + step[5],
    )


@dataclass(frozen=True)
class Counters:
    """Bytes of one step, or of all steps of a boundary.

    On CPU these are the storages that the boundary's thread allocated, to the byte. On CUDA they
    are the allocator's own figures (bytes requested), in which the other threads of the process
    count, and older memory that was freed inside.

    Args:
        steps: how many times the boundary closed.
        allocated: requested inside.
        peak: highest sum of live storages made inside; over all steps, the highest of them. None
            where it is not known: on CUDA, if the process had a higher peak before.
        freed_by_reference_counting: gone when the scope closed, without help.
        freed_by_force: released because something held it, or collected from a cycle on the CPU.
        crossed: storages that crossed.
    """

    steps: int = 0
    allocated: int = 0
    peak: int | None = 0
    freed_by_reference_counting: int = 0
    freed_by_force: int = 0
    crossed: int = 0


@dataclass(frozen=True)
class Held:
    """A storage that something still held when its boundary closed.

    Args:
        bytes: of the storage.
        shape: of the tensor that the operator returned, or that Python holds.
        dtype: as Python prints it.
        op: the operator that made it; empty where it was found through Python instead.
        refused: why it could not be released; None where it was, or where that was not asked for.
        released: whether it was.
    """

    bytes: int
    shape: tuple[int, ...]
    dtype: str
    op: str
    refused: str | None = None
    released: bool = False

    def __str__(self) -> str:
        origin = f" from {self.op}" if self.op else ""
        fate = "released" if self.released else f"not released: {self.refused or 'not asked for'}"
        return f"{list(self.shape)} {self.dtype}{origin}, {self.bytes} bytes ({fate})"


def report(
    name: str,
    held: Sequence[Held],  # at least one
) -> str:
    """What the warning of a boundary says."""
    count = "1 tensor" if len(held) == 1 else f"{len(held)} tensors"
    largest = "; ".join(map(str, sorted(held, key=lambda one: -one.bytes)[:3]))
    return (
        f"Boundary {name!r}: something still held {count} of its step when it closed, the largest: "
        f"{largest}. Drop them or detach them in the step, or say boundary.keep(tensor) if they "
        f"are meant to live. Said once per boundary."
    )
