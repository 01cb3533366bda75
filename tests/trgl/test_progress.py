"""Progress on a terminal and in a log file."""

from __future__ import annotations

import io
import time

import pytest

from trgl.cli.progress import Display
from trgl.pace import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_sees_a_moving_line(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    screen = Terminal()
    display = Display(2, stream=screen)
    for epoch in range(1, 5):
        display.update(Progress("vanilla-seed0", epoch, 4, 0.5 if epoch == 4 else None))
    display.finished("vanilla, seed 0: 50.0 %")
    text = screen.getvalue()
    assert "\r\x1b[K[############............]  50 % 0:04 left  vanilla-seed0: epoch 4 of 4" in text
    assert text.endswith("\r\x1b[Krun 1 of 2, vanilla, seed 0: 50.0 %\n")


def test_a_log_file_sees_a_few_plain_lines() -> None:
    log = io.StringIO()
    display = Display(1, stream=log)
    for epoch in range(1, 201):
        display.update(Progress("vanilla-seed0", epoch, 200, 0.815))
    assert log.getvalue().splitlines() == [
        f"vanilla-seed0: epoch {epoch} of 200, accuracy 81.5 %" for epoch in (50, 100, 150, 200)
    ]
