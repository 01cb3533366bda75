"""How a command ends: its exit codes, and complaints of one paragraph."""

from __future__ import annotations

import contextlib
import os
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

import trgl_kernels

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


@contextlib.contextmanager
def warnings_told(spell: Callable[[str], str]) -> Iterator[None]:
    """Show a warning of ours as a paragraph, without the line of ours that it comes from.

    Those of others, a network of the user's own among them, stay as Python shows them.

    Args:
        spell: puts a message of the Python API into the words of the command line.
    """
    ours = [Path(__file__).parents[1], Path(trgl_kernels.__file__).parent]
    with warnings.catch_warnings():
        before = warnings.showwarning

        def show(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if any(Path(filename).is_relative_to(folder) for folder in ours):
                complain(f"trgl: warning: {spell(str(message))}")
            else:
                before(message, category, filename, lineno, file, line)

        warnings.showwarning = show
        yield
