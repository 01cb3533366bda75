"""How far a run is, how fast it goes, and how long it will take."""

from __future__ import annotations

import bisect
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from trgl.peak import peak_memory
from trgl.regimes import Phase

_SECONDS = 0.5  # between two reports inside an epoch


@dataclass(frozen=True)
class Progress:
    """How far a run is: ``epoch`` of ``epochs`` are done, and a part of the next one.

    Attributes:
        label: of the run.
        epoch: epochs that are over.
        epochs: of the run.
        accuracy: of the last evaluation, a fraction; None before the first.
        accuracy_on: "test" or "validation", the images of that evaluation.
        share: of the work of the run that is done, evaluations included, from 0 to 1.
        evaluating: the next epoch has trained and is being evaluated.
        part: of the training of the next epoch that is done, from 0 to 1; 0 where a loader does not
            say its length.
        modules: numbers of those that train.
        module_epoch, module_epochs: the same for these modules alone, in this lap.
        left, module_left: seconds that the run, and these modules, will still take; None at first.
        rate: training images per second, evaluation apart; None at first.
        memory: the highest so far in bytes, of the device, or on the CPU of the process.
        resumed: it went on from an earlier part of the run.
        note: a sentence that a person should read; the rest is empty then.
    """

    label: str
    epoch: int
    epochs: int
    accuracy: float | None = None
    accuracy_on: str = "test"
    share: float = 0.0
    evaluating: bool = False
    part: float = 0.0
    modules: tuple[int, ...] = ()
    module_epoch: int = 0
    module_epochs: int = 0
    left: float | None = None
    module_left: float | None = None
    rate: float | None = None
    memory: int | None = None
    note: str = ""
    resumed: bool = False


class Pace:
    """Watches a run and reports now and then.

    Args:
        label: of the run.
        phases: its epochs.
        images: in a training epoch.
        batches: in a training epoch; None if that is not known.
        device: of the run.
        evaluated: images in an evaluation, of the test and validation images together.
        every: epochs from one evaluation to the next; the last epoch has one.
    """

    def __init__(
        self,
        label: str,
        phases: Sequence[Phase],
        images: int,
        batches: int | None,
        device: torch.device,
        evaluated: int,
        every: int,
    ) -> None:
        self._label = label
        self._phases = phases
        sizes = [len(list(same)) for _, same in itertools.groupby(phases)]
        self._ends = list(itertools.accumulate(sizes))  # of the rows of epochs that are alike
        self._images = images
        self._batches = batches
        self._device = device
        self._every = every
        # An evaluation in epochs of training: a forward pass is about a third of a step, until one
        # was measured.
        self._evaluation = evaluated / 3 / images
        self._accuracy: float | None = None
        self._on = "test"
        self._began = self._told = self._stepped = time.monotonic()
        self._first = 0.0  # epochs that were over when it began
        self._from = 0.0  # the same as work
        self._module_began, self._module_from = self._began, 0.0
        self._resumed = False
        self._trained = (0, 0.0)  # images and seconds of the epochs since it began

    def begin(self, epoch: int, batch: int) -> None:
        """The training begins, or goes on behind so many epochs and batches of the next one."""
        self._began = self._module_began = self._told = self._stepped = time.monotonic()
        self._first = epoch + self._part(batch)
        self._from = self._module_from = self._work(epoch, self._part(batch))
        self._resumed = self._from > 0

    def epoch(
        self, number: int, seconds: float, accuracy: float | None, on: str = "test"
    ) -> Progress:
        """An epoch is over.

        Args:
            number: from 1.
            seconds: of its training.
            accuracy: of its evaluation, if it had one.
            on: "test" or "validation", the images of that.
        """
        if accuracy is not None:
            self._accuracy, self._on = accuracy, on
        if number - self._first >= 1:  # a whole one
            images, before = self._trained
            self._trained = (images + self._images, before + seconds)
            if accuracy is not None and seconds > 0:
                self._evaluation = (time.monotonic() - self._stepped) / seconds
        progress = self._progress(number, 0.0, self._phases[number - 1])
        last = number == len(self._phases)
        if not last and self._phases[number] != self._phases[number - 1]:
            self._module_began, self._module_from = time.monotonic(), self._work(number)
        return progress

    def step(self, epoch: int, batch: int) -> Progress | None:
        """A batch is over; something to report if the last report was a while ago.

        Also if it is followed by an evaluation, which reports nothing until it is over.

        Args:
            epoch: that it belongs to, from 1.
            batch: its number in it, from 1.
        """
        self._stepped = time.monotonic()
        part = self._part(batch)
        evaluating = part == 1 and self._evaluations(epoch) > self._evaluations(epoch - 1)
        if self._stepped - self._told < _SECONDS and not evaluating:
            return None
        return self._progress(epoch - 1, part, self._phases[epoch - 1], evaluating)

    def note(self, text: str) -> Progress:
        """Something that a person should read."""
        return Progress(self._label, 0, len(self._phases), note=text)

    def _part(self, batch: int) -> float:
        return min(1.0, batch / self._batches) if self._batches else 0.0

    def _evaluations(self, epochs: int) -> int:
        """How many the first epochs have."""
        last = epochs == len(self._phases) and epochs % self._every != 0
        return epochs // self._every + last

    def _work(self, epochs: int, part: float = 0.0) -> float:
        """What so many epochs and a part of the next one are, in epochs of training."""
        return epochs + part + self._evaluation * self._evaluations(epochs)

    def _progress(
        self, epoch: int, part: float, phase: Phase, evaluating: bool = False
    ) -> Progress:
        now = self._told = time.monotonic()
        total = len(self._phases)
        done, all_of_it = self._work(epoch, part), self._work(total)
        at = min(epoch, total - 1) if part else epoch - 1
        row = bisect.bisect_right(self._ends, max(0, at))
        first, end = self._ends[row - 1] if row else 0, self._ends[row]
        images, seconds = self._trained
        return Progress(
            self._label,
            epoch,
            total,
            self._accuracy,
            self._on,
            done / all_of_it,
            evaluating,
            part,
            phase.active,
            epoch - first,
            end - first,
            _left(now - self._began, done - self._from, all_of_it - done),
            _left(now - self._module_began, done - self._module_from, self._work(end) - done),
            images / seconds if seconds > 0 else None,
            peak_memory(self._device),
            resumed=self._resumed,
        )


def _left(seconds: float, done: float, rest: float) -> float | None:
    """What the rest takes if it goes on as before; None while nothing is done."""
    return seconds * rest / done if done > 0 else None
