"""The directory of a run: made once, written durably, never overwritten by accident.

``config.json`` says what was asked for, ``metrics.jsonl`` grows by a few lines each epoch,
``checkpoints`` holds what a run goes on from, ``summary.json`` and the picture come at the end.
Whole files are replaced atomically, lines are appended in one write and synced: what was reported
survives.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

from trgl.durable import append_whole, make, sync_directory, write_atomically
from trgl.strict_json import to_json

CONFIG = "config.json"
METRICS = "metrics.jsonl"
SUMMARY = "summary.json"
CHECKPOINTS = "checkpoints"
PICTURE = "accuracy_by_depth.png"
SWEEP_PICTURE = "accuracy_by_tau.png"
TABLES = ("table.md", "table.csv", "table.json")
REPORT = "report.html"
DIAGNOSIS = "diagnostics.json"
EVENTS = "events.out.tfevents.*"  # for TensorBoard, whose names these are
RUNS = "runs"  # key of a comparison's configuration: names of its runs' directories
_MARK = "trgl run directory"
_OURS = (METRICS, SUMMARY, PICTURE, SWEEP_PICTURE, REPORT, DIAGNOSIS, *TABLES)


class RunDirectory:
    """A directory that belongs to one running process; a context manager.

    Use ``create`` to make one. While it is open, another process that wants it is refused.

    Attributes:
        path: where it is.
    """

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock
        self._metrics: int | None = None

    @classmethod
    def create(cls, out: Path, overwrite: bool = False) -> RunDirectory:
        """Make ``out`` a fresh run directory.

        Args:
            out: a path that does not exist, an empty directory, or, with ``overwrite``, the
                directory of an earlier run. Of that, only files that a run writes are removed, and
                of the runs inside only those that the configuration there names as its own.
            overwrite: allow that.

        Raises:
            ValueError: there is something already, a run is writing there at this moment, or the
                directory cannot be made or locked.
        """
        if out.exists() and not out.is_dir():
            raise ValueError(f"{out} is a file, a run needs a directory; choose another --out.")
        make(out)
        lock = _lock(out)
        try:
            _make_room(out, overwrite)
        except BaseException:
            os.close(lock)
            raise
        return cls(out, lock)

    @classmethod
    def open(cls, path: Path) -> RunDirectory:
        """Open the directory of an earlier run, to go on with it.

        Raises:
            ValueError: there is no run, it is going on at this moment, or the directory cannot be
                locked.
        """
        if not is_run_directory(path):
            raise ValueError(
                f"{path} holds no run of trgl (no {CONFIG} that says so); give the directory of "
                f"the run that is to go on."
            )
        lock = _lock(path)
        _remove_leftovers(path)
        return cls(path, lock)

    @classmethod
    def numbered(cls, parent: Path, name: str) -> RunDirectory:
        """Make ``parent/name-001``, or the first number above that which is free."""
        make(parent)
        number = 1
        while True:
            path = parent / f"{name}-{number:03d}"
            try:
                path.mkdir()
            except FileExistsError:
                number += 1
                continue
            sync_directory(parent)
            return cls.create(path)

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write ``config.json``, with the mark by which ``--overwrite`` knows a run directory."""
        self.write_json(CONFIG, {"kind": _MARK, **config})

    def write_json(self, name: str, value: Any) -> Path:
        """Write one JSON file atomically."""
        return self.write(name, (to_json(value) + "\n").encode())

    def write(self, name: str, content: bytes) -> Path:
        """Write one file atomically."""
        write_atomically(self.path / name, content)
        return self.path / name

    def append_metrics(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append lines to ``metrics.jsonl``; they are on the disk when this returns.

        Raises:
            OSError: they cannot be written; then none of them is there.
        """
        if self._metrics is None:
            flags = os.O_CREAT | os.O_WRONLY | os.O_APPEND
            self._metrics = os.open(self.path / METRICS, flags, 0o644)
            sync_directory(self.path)
        append_whole(self._metrics, _lines(rows), self.path / METRICS)

    def replace_metrics(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Let ``metrics.jsonl`` hold these lines and no others; others may follow."""
        self._close_metrics()
        self.write(METRICS, _lines(rows))

    def close(self) -> None:
        """Give the directory free; closing twice is harmless."""
        self._close_metrics()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _close_metrics(self) -> None:
        if self._metrics is not None:
            os.close(self._metrics)
            self._metrics = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _lines(rows: Iterable[Mapping[str, Any]]) -> bytes:
    return "".join(to_json(row, indent=None) + "\n" for row in rows).encode()


def is_run_directory(path: Path) -> bool:
    """Whether a run of trgl wrote its configuration there."""
    try:
        config = json.loads((path / CONFIG).read_text())
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and config.get("kind") == _MARK


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of ``metrics.jsonl`` of a run directory; a line cut off by a crash is left out."""
    rows = []
    for line in (path / METRICS).read_text().splitlines():
        with contextlib.suppress(ValueError):
            rows.append(json.loads(line))
    return rows


def from_anywhere(place: str | None) -> str | None:
    """A path as every working directory finds it; "memory", which is no path, as it is."""
    return place if place in (None, "memory") else os.path.abspath(place)


def _lock(path: Path) -> int:
    handle = os.open(path, os.O_RDONLY)  # the directory itself is the lock: no file is left behind
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise ValueError(
            f"another run is writing to {path} at this moment; wait until it ends, or "
            f"give a new run another directory (--out)."
        ) from error
    except OSError as error:
        os.close(handle)
        raise ValueError(
            f"the file system of {path} does not lock directories ({error.strerror}), which keeps "
            f"two runs apart; give a new run a directory on another file system (--out), e.g. a "
            f"local disk, copy one that is to go on there, or have locks turned on (Lustre: mount "
            f"-o flock)."
        ) from error
    return handle


def _remove_leftovers(path: Path) -> None:
    """Remove what a run that was killed while it wrote left of a file."""
    for name in (CONFIG, *_OURS, EVENTS):
        for part in path.glob(f".{name}.*"):
            with contextlib.suppress(OSError):  # the disk may be read-only
                part.unlink()


def _make_room(path: Path, overwrite: bool) -> None:
    _remove_leftovers(path)
    if not any(path.iterdir()):
        return
    if not overwrite:
        raise ValueError(
            f"{path} is not empty, and a run never overwrites silently; choose another --out, "
            "or add --overwrite to replace the run that is there."
        )
    if not is_run_directory(path):
        raise ValueError(
            f"{path} holds no earlier run of trgl (no {CONFIG} that says so), so that "
            "--overwrite refuses to touch it; choose another --out."
        )
    inner = _own_runs(path)
    with contextlib.ExitStack() as locks:
        for child in inner:  # all of them, before anything is removed
            locks.callback(os.close, _lock(child))
        for child in inner:
            _clear(child)
            with contextlib.suppress(OSError):  # something of somebody else's is in it
                child.rmdir()
        _clear(path)


def _clear(path: Path) -> None:
    """Remove an earlier run's files; the mark goes last."""
    folder = path / CHECKPOINTS
    if folder.is_dir() and not folder.is_symlink():
        for pattern in ("step-*.pt", "step-*.pt.damaged", "diverged.pt", ".*.pt.*"):
            for checkpoint in folder.glob(pattern):
                checkpoint.unlink()
        with contextlib.suppress(OSError):  # something of somebody else's is in it
            folder.rmdir()
    for events in path.glob(EVENTS):
        events.unlink()
    for name in (*_OURS, CONFIG):
        with contextlib.suppress(FileNotFoundError):
            (path / name).unlink()


def _own_runs(path: Path) -> list[Path]:
    """The runs inside a comparison's directory that its configuration names."""
    named = json.loads((path / CONFIG).read_text()).get(RUNS)
    children = sorted(child for child in path.iterdir() if child.name in (named or ()))
    return [child for child in children if not child.is_symlink() and is_run_directory(child)]
