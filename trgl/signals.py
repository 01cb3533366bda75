"""Interrupts that let a training finish its step; a second one stops it at once."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any, Self

_TOLD = b"\ntrgl: finishing the step, then saving; once more stops at once.\n"


class Interrupts:
    """While it is open, the first SIGINT or SIGTERM asks a training to stop; a context manager.

    The second one does what it would have done without: so does the first one in the end, by
    `deliver`. Outside of the main thread, whose signals these are, it does nothing.

    Args:
        stop: asks the training to stop; called inside a signal handler.
        tell: say so on stderr.
    """

    def __init__(self, stop: Callable[[], None], tell: bool = True) -> None:
        self._stop = stop
        self._tell = tell
        self._before: dict[int, Any] = {}
        self._came: int | None = None

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            before = signal.getsignal(number)
            if before is None or before is signal.SIG_IGN:  # not Python's, or not wanted: nohup
                continue
            try:
                signal.signal(number, self._first)
            except ValueError:  # not the main thread
                return self
            self._before[number] = before
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _first(self, number: int, frame: FrameType | None) -> None:
        for other, handler in self._before.items():
            signal.signal(other, handler)
        self._came = number
        self._stop()
        if self._tell:
            with contextlib.suppress(OSError):
                os.write(2, _TOLD)  # print is not safe inside a handler

    def deliver(self) -> None:
        """Lets the signal that came do what it does outside; without one nothing happens."""
        if self._came is not None:
            signal.raise_signal(signal.Signals(self._came))
