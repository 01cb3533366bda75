"""Where the rows of a run go, epoch by epoch, whatever the disk does meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from trgl.events import Events
from trgl.metrics import EpochRecord
from trgl.recorded import metric_rows
from trgl.rundir import RunDirectory


class Journal:
    """Writes what each epoch measured: into ``metrics.jsonl``, and for TensorBoard.

    Args:
        directory: of the run, which is open.
        tensorboard: write an event file too.
        tell: is given a sentence for what could not be written, and will be tried again.

    Raises:
        ValueError: TensorBoard is wanted and not installed.
    """

    def __init__(
        self, directory: RunDirectory, tensorboard: bool, tell: Callable[[str], None]
    ) -> None:
        self._directory = directory
        self._tell = tell
        self._events = Events(directory.path) if tensorboard else None
        self._rows: list[dict[str, Any]] = []
        self._written = 0  # of them in metrics.jsonl
        self._shown: int | None = None  # of them in the event file; None before there is one
        self._late: set[str] = set()  # what the disk did not take

    def begin(self, records: Iterable[EpochRecord], again: bool) -> None:
        """Take up the epochs that are over.

        Args:
            records: of these.
            again: an earlier part of the run may have written more, which is forgotten.

        Raises:
            OSError: the disk does not take them.
        """
        self._rows = [row for record in records for row in metric_rows(record)]
        if again:
            self._directory.replace_metrics(self._rows)
        self._written = len(self._rows)
        self._try("points for TensorBoard", self._show)

    def add(self, record: EpochRecord) -> None:
        """Write what an epoch measured."""
        self._rows += metric_rows(record)
        self._try("metrics", self._write)
        self._try("points for TensorBoard", self._show)

    def finish(self) -> None:
        """Write what is not written yet.

        Raises:
            OSError: the disk does not take the metrics.
        """
        self._try("points for TensorBoard", self._show)
        self._write()

    def close(self) -> None:
        """Give the files free."""
        if self._events is not None:
            self._events.close()

    def _try(self, what: str, write: Callable[[], None]) -> None:
        """Write, or say once that it will be tried again with the next epoch."""
        try:
            write()
            self._late.discard(what)
        except OSError as error:
            if what not in self._late:
                self._late.add(what)
                self._tell(f"The {what} of the last epoch are not written yet: {error}.")

    def _write(self) -> None:
        if self._written < len(self._rows):
            self._directory.append_metrics(self._rows[self._written :])
            self._written = len(self._rows)

    def _show(self) -> None:
        if self._events is None or self._shown == len(self._rows):
            return
        if self._shown is None:
            self._events.replace(self._rows)
        else:
            self._events.append(self._rows[self._shown :])
        self._shown = len(self._rows)
