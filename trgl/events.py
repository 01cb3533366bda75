"""The rows of ``metrics.jsonl`` as an event file for TensorBoard."""

from __future__ import annotations

import importlib.util
import io
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trgl import rundir
from trgl.durable import append_whole, write_atomically

if TYPE_CHECKING:
    from tensorboard.compat.proto.event_pb2 import Event

_OF_THE_RUN = ("lap", "seconds", "images_per_second", "memory_bytes")
_OF_A_MODULE = (
    "train_loss",
    "train_accuracy",
    "validation_loss",
    "validation_accuracy",
    "test_loss",
    "test_accuracy",
    "transport_cost",
    "transport_weight",
    "learning_rate",
)


def check_installed() -> None:
    """Hold that event files can be written.

    Raises:
        ValueError: the package tensorboard is not installed.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise ValueError(
            "--tensorboard needs the package tensorboard, which is not installed: run "
            "pip install 'trgl[tensorboard]', or give --no-tensorboard."
        )


class Events:
    """The event file of a run directory: each column of the rows by epoch.

    What belongs to a module has the tag ``COLUMN/module_N``, what belongs to the run
    ``run/COLUMN``; a value that is missing is left out. TensorBoard's own writer is not used: it
    writes in a thread, which a full disk ends with a traceback, and without its last points.

    Args:
        path: of the run directory.

    Raises:
        ValueError: as `check_installed`.
    """

    def __init__(self, path: Path) -> None:
        check_installed()
        self._path = path
        self._name = path
        self._file: int | None = None

    def replace(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Let the run directory hold these rows and no others; others may follow.

        Their times are those of a run that trained them without a pause and ends now.

        Raises:
            OSError: they cannot be written; then those of before are still there.
        """
        self.close()
        old = list(self._path.glob(rundir.EVENTS))
        seconds = {row["epoch"]: row["seconds"] for row in rows}
        began = time.time() - sum(seconds.values())
        ended = {e: began + sum(s for o, s in seconds.items() if o <= e) for e in seconds}
        new = self._path / rundir.EVENTS.replace("*", f"{time.time():017.6f}.trgl")  # names sort
        write_atomically(new, _encoded([*_beginning(began), *_points(rows, ended)]))
        for file in old:
            if file.stat().st_size == 0:
                file.unlink()
            else:
                os.truncate(file, 0)  # the readers of one that is gone never come to the next one
        self._name, self._file = new, os.open(new, os.O_WRONLY | os.O_APPEND)

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows behind those of `replace`.

        Raises:
            OSError: they cannot be written; then none of them is there.
        """
        assert self._file is not None
        now = time.time()
        content = _encoded(_points(rows, {row["epoch"]: now for row in rows}))
        append_whole(self._file, content, self._name)

    def close(self) -> None:
        """Give the file free; closing twice is harmless."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _encoded(events: Iterable[Event]) -> bytes:
    from tensorboard.summary.writer.record_writer import RecordWriter

    stream = io.BytesIO()
    records = RecordWriter(stream)
    for event in events:
        records.write(event.SerializeToString())
    return stream.getvalue()


def _beginning(when: float) -> list[Event]:
    """What stands in front: a TensorBoard that has read an earlier file forgets its points.

    One chart under "Custom scalars" has the modules side by side.
    """
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog
    from torch.utils.tensorboard.summary import custom_scalars

    charts = {name: ["Multiline", [f"^{name}/"]] for name in _OF_A_MODULE}
    return [
        Event(wall_time=when, file_version="brain.Event:2"),
        Event(wall_time=when, step=1, session_log=SessionLog(status=SessionLog.START)),
        Event(wall_time=when, summary=custom_scalars({"modules": charts})),
    ]


def _points(rows: Iterable[Mapping[str, Any]], ended: Mapping[int, float]) -> Iterator[Event]:
    """The points of rows.

    Args:
        rows: of some epochs.
        ended: when each of these ended, in seconds since 1970.
    """
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

    seen: set[int] = set()
    for row in rows:
        epoch = row["epoch"]
        found = {f"{name}/module_{row['module']}": row[name] for name in _OF_A_MODULE}
        if epoch not in seen:  # what belongs to the run stands in every row
            found |= {f"run/{name}": row[name] for name in _OF_THE_RUN}
            seen.add(epoch)
        values = [
            Summary.Value(tag=tag, simple_value=value)
            for tag, value in found.items()
            if value is not None
        ]
        yield Event(wall_time=ended[epoch], step=epoch, summary=Summary(value=values))
