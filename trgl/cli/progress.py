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
_PLAIN_STEPS = 4


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
        self._started = time.monotonic()
        self._drawn = 0.0

    def announce(self) -> None:
        """Before the first epoch: one line where the compiled engine is missing, and the remedy."""
        slower = extension.notice()
        if slower and not self._quiet:
            print(f"trgl: {slower}", file=self._stream, flush=True)

    def update(self, progress: Progress) -> None:
        """An epoch of a run is over."""
        before = self._fractions.get(progress.label, 0.0)
        fraction = progress.epoch / progress.epochs
        self._fractions[progress.label] = fraction
        if self._quiet:
            return
        accuracy = (
            "" if progress.accuracy is None else f", accuracy {100 * progress.accuracy:.1f} %"
        )
        text = f"{progress.label}: epoch {progress.epoch} of {progress.epochs}{accuracy}"
        if self._terminal:
            self._draw(text)
        elif int(fraction * _PLAIN_STEPS) > int(before * _PLAIN_STEPS):
            print(text, file=self._stream, flush=True)

    def finished(self, text: str) -> None:
        """A run is over."""
        self._finished += 1
        if self._quiet:
            return
        count = f"run {self._finished} of {self._runs}, " if self._runs > 1 else ""
        self.clear()
        print(f"{count}{text}", file=self._stream, flush=True)

    def clear(self) -> None:
        """Remove the moving line, before something else is printed."""
        if self._terminal and not self._quiet:
            print("\r\x1b[K", end="", file=self._stream, flush=True)

    def _draw(self, text: str) -> None:
        now = time.monotonic()
        if now - self._drawn < _REDRAW_SECONDS:
            return
        self._drawn = now
        share = min(1.0, sum(self._fractions.values()) / self._runs)
        filled = int(_WIDTH * share)
        left = ""
        elapsed = now - self._started
        if share > 0.02:
            seconds = round(elapsed * (1 - share) / share)
            left = f" {seconds // 60}:{seconds % 60:02d} left"
        bar = "#" * filled + "." * (_WIDTH - filled)
        line = f"[{bar}] {100 * share:3.0f} %{left}  {text}"
        columns = shutil.get_terminal_size().columns
        print(f"\r\x1b[K{line[: columns - 1]}", end="", file=self._stream, flush=True)
