"""How a command ends: its exit codes, and complaints of one paragraph."""

from __future__ import annotations

import contextlib
import os
import sys
import textwrap

DONE, FAILED, WRONG_INPUT, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143


def complain(message: str) -> None:
    """One paragraph on stderr, as wide as the terminal, at most 100 columns."""
    with contextlib.suppress(OSError):
        width = os.get_terminal_size(sys.stderr.fileno()).columns if sys.stderr.isatty() else 0
        paragraph = " ".join(message.split())
        if width:
            paragraph = textwrap.fill(
                paragraph, min(width, 100), break_long_words=False, break_on_hyphens=False
            )
        print(paragraph, file=sys.stderr, flush=True)
