"""The commands and their parser; a user's mistake is one paragraph, never a traceback."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import functools
import os
import re
import select
import signal
import sys
import textwrap
import traceback
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from trgl.cli.messages import (
    FAILED,
    INTERRUPTED,
    TERMINATED,
    WRONG_INPUT,
    complain,
    warnings_told,
)
from trgl.cli.spelling import as_typed

_EXIT_CODES = (
    "Exit codes: 0 done, 1 failed, 2 wrong input, 130 interrupted (Ctrl-C), 143 terminated."
)
_CHOICE = re.compile(r"invalid choice: '(.*?)' \(choose from (.*)\)")  # argparse's words


class Terminated(BaseException):
    """SIGTERM arrived."""


class Help(argparse.HelpFormatter):
    """Help that never cuts a word like pre-activation in two."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        words = " ".join(text.split())
        return textwrap.wrap(words, width, break_on_hyphens=False, break_long_words=False)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines = textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)
        return "\n".join(indent + line for line in lines)


class Parser(argparse.ArgumentParser):
    """A parser whose complaint is one paragraph instead of a list of all options."""

    def __init__(self, **keywords: Any) -> None:
        common = {"formatter_class": Help, "epilog": _EXIT_CODES, "allow_abbrev": False}
        super().__init__(**{**common, **keywords})

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and where help is, and leave with the code of wrong input."""
        if (wrong := _CHOICE.search(message)) is not None:
            near = difflib.get_close_matches(wrong[1], re.findall(r"[\w-]+", wrong[2]), n=1)
            message += f". Did you mean {near[0]}?" if near else ""
        end = "" if message.endswith(("?", ".")) else "."
        complain(f"{self.prog}: {message}{end} See {self.prog} --help.")
        self.exit(WRONG_INPUT)

    def unknown(self, words: Sequence[str], command: str) -> NoReturn:
        """Say which arguments a command does not have, and which of its options are nearest."""
        parser: argparse.ArgumentParser = self
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                parser = action.choices[command]
        options = [*parser._option_string_actions, *self._option_string_actions]
        known = [option[2:] for option in options if option.startswith("--")]
        wrong = [word[2:].partition("=")[0] for word in words if word.startswith("--")]
        near = [match for word in wrong for match in _nearest(word, known)]
        meant = f". Did you mean --{', --'.join(near)}?" if near else ""
        early = [word for word in wrong if word in near]  # right, but options of trgl itself
        if early:
            meant = f". Write --{early[0]} before the command: trgl --{early[0]} {command}"
        parser.error(f"unrecognized arguments: {' '.join(words)}{meant}")


def _nearest(word: str, known: Sequence[str]) -> list[str]:
    """The name whose initials are `word`, such as lr, or the one that is spelt nearest."""
    initials = ["".join(part[:1] for part in name.split("-")) for name in known]
    if len(word) > 1 and word in initials:
        return [known[initials.index(word)]]
    return difflib.get_close_matches(word, known, n=1)


def build_parser(arguments: Sequence[str]) -> Parser:
    """The parser of all commands.

    Args:
        arguments: what will be parsed; a recipe's name in it makes ``--help`` show its values.
    """
    from trgl.cli import (
        compare,
        diagnose,
        export,
        fetch,
        info,
        memory,
        recipes,
        report,
        train,
    )

    parser = Parser(
        prog="trgl",
        description="Train residual networks module by module, with transport regularization.",
    )
    parser.add_argument(
        "--traceback",
        action="store_true",
        help="print the traceback of an error, for a report to the authors",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in (
        train,
        compare,
        report,
        diagnose,
        export,
        memory,
        recipes,
        fetch,
        info,
    ):
        command.add(commands, arguments)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: without the program's name; None takes those of the process.

    Returns:
        The exit code.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    wants_traceback = "--traceback" in given
    options = argparse.Namespace()
    try:
        with _sigterm_raises():
            parser = build_parser(given)
            options, unknown = parser.parse_known_args(given)
            if unknown:
                parser.unknown(unknown, options.command)
            with warnings_told(functools.partial(as_typed, options=options)):
                code: int = options.run(options)
            sys.stdout.flush()
            return code
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else FAILED
    except KeyboardInterrupt:
        complain("trgl: interrupted.")
        return INTERRUPTED
    except Terminated:
        complain("trgl: terminated.")
        return TERMINATED
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            # Whoever read our output is gone (a pager, head): nobody to tell.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return FAILED
        if wants_traceback:
            traceback.print_exc()
        if isinstance(error, ValueError):
            complain(f"trgl: {as_typed(str(error), options)}")
            return WRONG_INPUT
        complain(f"trgl: failed: {as_typed(_explain(error, wants_traceback), options)}")
        return FAILED


def _nobody_reads() -> bool:
    """Whether standard output is a pipe whose reader is gone; other pipes are not meant."""
    try:
        handle = sys.stdout.fileno()
    except (OSError, ValueError):
        return False
    watch = select.poll()
    watch.register(handle, 0)
    return any(state & (select.POLLERR | select.POLLHUP) for _, state in watch.poll(0))


def _explain(error: Exception, shown: bool) -> str:
    from trgl import own_code
    from trgl.trainer import DeviceMemoryError, DivergenceError

    if isinstance(error, (OSError, DeviceMemoryError, DivergenceError)):
        return str(error)
    hint = "" if shown else " (trgl --traceback ... shows where it happened.)"
    return f"{own_code.told(error)}{hint}"


@contextlib.contextmanager
def _sigterm_raises() -> Iterator[None]:
    def leave(number: int, frame: object) -> None:
        raise Terminated

    try:
        before = signal.signal(signal.SIGTERM, leave)
    except ValueError:  # not the main thread: signals are somebody else's
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
