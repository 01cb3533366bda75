"""Progress of one or more runs: a moving line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import shutil
import sys
import time
from typing import TextIO

from trgl.pace import Progress
from trgl_kernels import extension

_WIDTH = 24
_REDRAW_SECONDS = 0.1
_PLAIN_STEPS = 4  # lines of a short run that goes to a file or a pipe
_PLAIN_SECONDS = 60.0  # between two lines of a long one


class Display:
    """Shows how far a set of runs is.

    Args:
        runs: how many there are.
        quiet: show nothing.
        stream: where; standard error by default, so that results can be piped.
    """

    def __init__(self, runs: int, quiet: bool = False, stream: TextIO | None = None) -> None:
        self._runs = runs
        self._quiet = quiet
        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty()
        self._finished = 0
        self._fractions: dict[str, float] = {}
        self._first: dict[str, float] = {}  # what was done when this command began
        self._started = self._drawn = time.monotonic()

    def announce(self) -> None:
        """Before the first epoch: one line where the compiled engine is missing, and the remedy."""
        slower = extension.notice()
        if slower and not self._quiet:
            print(f"trgl: {slower}", file=self._stream, flush=True)

    def update(self, progress: Progress) -> None:
        """A run is further, or something happened to it."""
        if progress.note:  # also to those who want no progress: something is wrong
            self.clear()
            print(f"trgl: {progress.label}: {progress.note}", file=self._stream, flush=True)
            return
        fraction = progress.share
        self._first.setdefault(progress.label, fraction if progress.resumed else 0.0)
        before = self._fractions.get(progress.label, self._first[progress.label])
        self._fractions[progress.label] = fraction
        if self._quiet:
            return
        now = time.monotonic()
        if self._terminal:
            self._draw(describe(progress), now)
        elif (
            int(fraction * _PLAIN_STEPS) > int(before * _PLAIN_STEPS)
            or now - self._drawn >= _PLAIN_SECONDS
        ):
            self._drawn = now
            print(describe(progress), file=self._stream, flush=True)

    def finished(self, text: str, label: str = "") -> None:
        """A run is over; one that was never seen was over before."""
        self._finished += 1
        if label and label not in self._fractions:
            self._fractions[label] = self._first[label] = 1.0
        if self._quiet:
            return
        count = f"run {self._finished} of {self._runs}, " if self._runs > 1 else ""
        self.clear()
        print(f"{count}{text}", file=self._stream, flush=True)

    def clear(self) -> None:
        """Remove the moving line, before something else is printed."""
        if self._terminal and not self._quiet:
            print("\r\x1b[K", end="", file=self._stream, flush=True)

    def _draw(self, text: str, now: float) -> None:
        if now - self._drawn < _REDRAW_SECONDS:
            return
        self._drawn = now
        share = min(1.0, sum(self._fractions.values()) / self._runs)
        filled = int(_WIDTH * share)
        left = ""
        elapsed = now - self._started
        gained = share - sum(self._first.values()) / self._runs  # since this command began
        if gained > 0.02:
            left = f" {clock(elapsed * (1 - share) / gained)} left"
        bar = "#" * filled + "." * (_WIDTH - filled)
        line = f"[{bar}] {100 * share:3.0f} %{left}  {text}"
        columns = shutil.get_terminal_size().columns
        print(f"\r\x1b[K{line[: columns - 1]}", end="", file=self._stream, flush=True)


def describe(progress: Progress) -> str:
    """One line: where a run is, how well it does, how long it and its module take, how fast."""
    words = [f"{progress.label}: epoch {progress.epoch} of {progress.epochs}"]
    if progress.module_epochs != progress.epochs and progress.modules:
        numbers = ", ".join(map(str, progress.modules))
        left = "" if progress.module_left is None else f", {clock(progress.module_left)} left"
        words.append(f"module {numbers}: {progress.module_epoch} of {progress.module_epochs}{left}")
    if progress.evaluating:
        words.append("evaluating")
    if progress.accuracy is not None:
        words.append(f"{progress.accuracy_on} accuracy {100 * progress.accuracy:.1f} %")
    if progress.left is not None:
        words.append(f"{clock(progress.left)} left")
    if progress.rate is not None:
        words.append(f"{progress.rate:,.0f} images/s")
    if progress.memory is not None:
        words.append(f"{progress.memory / 2**20:,.0f} MiB")
    return ", ".join(words)


def clock(seconds: float) -> str:
    """Minutes and seconds, with hours where there are any."""
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"
