"""The console's ``trgl``: imports that take seconds, where Ctrl-C must not leave a traceback.

It stands outside the package, whose own import is the slow one.
"""

from __future__ import annotations

import os
import signal


def main() -> int:
    """Run the command line; an interrupt during the imports ends with the exit code 130."""

    def leave(number: int, frame: object) -> None:
        os.write(2, b"trgl: interrupted.\n")
        os._exit(130)  # an exception could be swallowed, or wrapped, by what is being imported

    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, leave)
    from trgl.cli import compare, train  # noqa: F401  (they import torch)
    from trgl.cli import main as command

    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, before)
    return command()


if __name__ == "__main__":
    raise SystemExit(main())
