"""A folder of checkpoints: when one is due, which are kept, and which is the last good one."""

import contextlib
import errno
import math
import os
import re
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trgl.durable import make

from .file import DamagedError, read, write

_NAME = re.compile(r"step-(\d{10,})\.pt")
_ASIDE = ".damaged"
DIVERGED = "diverged.pt"
_TEXT = re.compile(r"(\d+(?:\.\d*)?)\s*(steps?|s|m|min|h|)")
_SECONDS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Every:
    """How often a checkpoint is due; with neither, only at the end and when a run is stopped.

    Args:
        steps: batches from one to the next, ≥ 1.
        seconds: from one to the next, > 0.

    Raises:
        ValueError: both, or one out of its range.
    """

    steps: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        whole = isinstance(self.steps, int) and not isinstance(self.steps, bool)
        if self.steps is not None and not (whole and self.steps >= 1):
            raise ValueError(f"Steps between checkpoints must be 1 or more, but got {self.steps}.")
        if self.seconds is not None and not 0 < self.seconds < math.inf:
            raise ValueError(
                f"Seconds between checkpoints must be above 0 and finite, but got {self.seconds}."
            )
        if self.steps is not None and self.seconds is not None:
            raise ValueError("Checkpoints are due by steps or by time, but got both. Give one.")

    @classmethod
    def parse(cls, text: str) -> "Every":
        """From "500" or "500 steps", "90s", "10m", "1.5h", or "never".

        Raises:
            ValueError: something else.
        """
        words = text.strip().lower()
        found = _TEXT.fullmatch(words)
        if words == "never":
            return cls()
        if found is not None and found[2] in _SECONDS and float(found[1]) > 0:
            return cls(seconds=float(found[1]) * _SECONDS[found[2]])
        if found is not None and found[2] not in _SECONDS and found[1].isdecimal():
            steps = int(found[1])
            if steps > 0:
                return cls(steps=steps)
        raise ValueError(
            f"how often to save is a number of steps, such as 500, a time, such as 90s, 10m or "
            f"1h, or never; received {text!r}."
        )


class Checkpoints:
    """The checkpoints of one training in a folder of their own.

    A file is replaced as a whole, and an older one is removed only when the new one is on the disk.

    Args:
        folder: made when the first one is saved.
        every: how often one is due: an `Every`, a number of steps, or a text that `Every.parse`
            reads.
        keep: how many are kept, the last ones, ≥ 1.
        tell: is given a sentence for each checkpoint that is damaged or could not be written; None
            warns.
        note: what is saved under "note" beside the state; called whenever it is saved.

    Attributes:
        error: why the last attempt to save failed; None if it did not.

    Raises:
        ValueError: an argument out of its range.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        every: Every | str | int = "10m",
        keep: int = 2,
        tell: Callable[[str], None] | None = None,
        note: Callable[[], Mapping[str, Any]] | None = None,
    ) -> None:
        if not isinstance(keep, int) or isinstance(keep, bool) or keep < 1:
            raise ValueError(f"keep must be a whole number of at least 1, but got {keep!r}.")
        self.folder = Path(folder)
        self.every = every if isinstance(every, Every) else Every.parse(str(every))
        self.keep = keep
        self.tell = tell or _warn
        self.note = note
        self.error: OSError | None = None
        self.begin(0)

    def start(self, step: int) -> None:
        """A training begins here, or goes on.

        Args:
            step: batches that the run has done.

        Raises:
            ValueError: the folder has a checkpoint of a later step, which would be taken for the
                newest one of this training.
        """
        last = next(iter(self.paths()), None)
        if last is not None and int(last.stem.removeprefix("step-")) > step:
            raise ValueError(
                f"A folder holds the checkpoints of one training, but this one is at step {step} "
                f"and {last} is of a later step. Go on from there by resume={str(self.folder)!r}, "
                f"or give a new training another folder."
            )
        self.begin(step)

    def begin(self, step: int) -> None:
        """Counts steps and time until the next one from here.

        Args:
            step: batches that the run has done.
        """
        self._due_step = None if self.every.steps is None else step + self.every.steps
        self._due_time = math.inf
        if self.every.seconds is not None:
            self._due_time = time.monotonic() + self.every.seconds

    def due(self, step: int) -> bool:
        """Whether it is time to save.

        Args:
            step: batches that the run has done.
        """
        if self._due_step is not None:
            return step >= self._due_step
        return self._due_time < math.inf and time.monotonic() >= self._due_time

    def save(self, state: Mapping[str, Any], step: int) -> Path:
        """Writes a checkpoint, then removes those that are too many.

        Args:
            state: tensors, numbers, texts and collections of them.
            step: batches that the run has done; it names the file.

        Raises:
            ValueError: the state holds something else.
            OSError: it cannot be written; the last good one is still there.
        """
        self.begin(step)
        path = self.folder / f"step-{step:010d}.pt"
        self._write(path, state)
        for old in [other for other in self.paths() if other != path][max(0, self.keep - 1) :]:
            with contextlib.suppress(FileNotFoundError):
                old.unlink()
        return path

    def try_save(self, state: Mapping[str, Any], step: int) -> Path | None:
        """As `save`, but a disk that takes nothing is told, and does not end the training.

        Returns:
            The file; None if there is none, and `error` says why.
        """
        self.error = None
        try:
            return self.save(state, step)
        except OSError as error:
            self.error = error
            self.tell(self.trouble())
            return None

    def set_aside(self, state: Mapping[str, Any]) -> Path | None:
        """Writes a state that must not be gone on with, under a name of its own, to be looked at.

        Returns:
            The file; None where the disk takes none.
        """
        path = self.folder / DIVERGED
        try:
            self._write(path, state)
        except OSError:
            return None
        return path

    def trouble(self) -> str:
        """What became of the last attempt to save, and which checkpoint is the last good one."""
        error, last = self.error, next(iter(self.paths()), None)
        full = error is not None and error.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = "the disk is full" if full else "it cannot be written"
        good = "none is there yet" if last is None else f"the last good one is {last}"
        return f"No checkpoint was saved, because {reason} ({error}); {good}."

    def paths(self) -> list[Path]:
        """The files, the newest first."""
        if not self.folder.is_dir():
            return []
        found = [(_NAME.fullmatch(path.name), path) for path in self.folder.iterdir()]
        numbered = [(int(match[1]), path) for match, path in found if match is not None]
        return [path for _, path in sorted(numbered, reverse=True)]

    def load(self) -> tuple[Path, Any] | None:
        """The newest checkpoint that is whole, and its path; None if there is no checkpoint.

        A damaged one is put aside under another name and told.

        Raises:
            DamagedError: there are checkpoints, but all are damaged.
            OSError: one cannot be read.
        """
        wrong: list[str] = []
        for path in self.paths():
            try:
                state = read(path)
            except DamagedError as error:
                wrong.append(str(error))
                with contextlib.suppress(OSError):  # the disk may be read-only
                    os.replace(path, path.with_name(path.name + _ASIDE))
                continue
            for reason in wrong:
                self.tell(f"{reason} The one before it is used: {path.name}.")
            return path, state
        if wrong:
            raise DamagedError(f"No checkpoint in {self.folder} is whole: {' '.join(wrong)}")
        return None

    def _write(self, path: Path, state: Mapping[str, Any]) -> None:
        if not self.folder.is_dir():
            make(self.folder)
        write(path, state if self.note is None else {**state, "note": self.note()})

    def clean(self) -> None:
        """Removes what a run that was killed while it saved left half-written."""
        if self.folder.is_dir():
            for path in self.folder.glob(".*.pt.*"):
                with contextlib.suppress(OSError):
                    path.unlink()


def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=3)
