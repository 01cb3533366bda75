"""A training whose state can be taken, written into a file, read and taken up."""

import os
from pathlib import Path
from typing import Any, Protocol

from .checkpoint import Checkpoints, read, write
from .state import Training, check_state, load_state, state_of


class Marks(Protocol):
    """A training under way, which knows better than its cursor where it is."""

    def mark(self) -> None:
        """Notes it at the cursor."""


class Resumable(Training):
    """A training that can be left between two batches and gone on with.

    Attributes:
        fitting: the call of `fit` that is under way, if one is.
        steady: it stands between two batches: a state taken here is whole.
        halting: it was asked to stop.
    """

    fitting: Marks | None
    steady: bool
    halting: bool

    def state_dict(self) -> dict[str, Any]:
        """All that decides how the training goes on, at this place between two batches.

        Weights, buffers, optimizers, schedulers, loss scalers, multipliers, gradients that wait for
        their optimizer, the place in the regime, in the epoch and in the loader, the records so
        far, and the generators of Python, NumPy, PyTorch and the device. The tensors are the
        trainer's own: write them, or copy them.

        Call it in `on_step` or `on_epoch`, or when `fit` is over or was stopped.

        Raises:
            ValueError: in the middle of a batch, or after an error that ended `fit` there.
        """
        self._check_steady()
        if self.fitting is not None:
            self.fitting.mark()
        return state_of(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up a state; `fit(..., resume=True)` goes on from there.

        The trainer must have been built as it was when the state was taken, for the same network.
        More epochs may follow than were planned then.

        Raises:
            ValueError: the state is of another training or network; nothing is changed then.
        """
        check_state(self, state)
        load_state(self, state)
        self.steady = True

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the state into a file, which is replaced as a whole or not at all.

        Raises:
            ValueError: as `state_dict`, or an optimizer or scheduler has a state that cannot be
                read without running code.
            OSError: the file cannot be written.
        """
        write(Path(path), self.state_dict())

    def load(self, path: str | os.PathLike[str]) -> None:
        """Takes up the state in a file, or the newest whole one in a folder of checkpoints.

        Nothing in the file is run as code.

        Raises:
            ValueError: as `load_state_dict`, the file is damaged, or the folder has no checkpoint.
            OSError: it cannot be read.
        """
        place = Path(path)
        if not place.is_dir():
            self.load_state_dict(read(place))
            return
        found = Checkpoints(place).load()
        if found is None:
            raise ValueError(f"{place} must hold a checkpoint to go on from, but there is none.")
        self.load_state_dict(found[1])

    def _check_steady(self) -> None:
        if not self.steady:
            raise ValueError(
                "A training goes on from between two batches, but this one stands in the middle of "
                "one, where an error ended it or this was called. Resume from a checkpoint, or "
                "call fit without resume to train anew from these weights."
            )
