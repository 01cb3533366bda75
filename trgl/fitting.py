"""The loop of a training over epochs and batches, which can be left and gone on with."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from pathlib import Path

import torch
from torch import Tensor

from . import generators
from .accidents import LATE, NotFinite
from .checkpoint import Checkpoints
from .checkpoint.plain import plain
from .evaluation import evaluate
from .feed import Feed
from .meter import DivergenceError, measured
from .metrics import EpochRecord, Evaluation
from .peak import peak_memory
from .regimes import Phase, train_epoch
from .resumable import Resumable
from .state import load_step, state_of, step_state
from .step import LocalStep


class Stopped(Exception):
    """`Trainer.stop` was called: the batch is done, and a state was saved if that was asked for.

    Args:
        message: says where the training stands.
        path: of the checkpoint; None where none was asked for, or none could be written.
    """

    def __init__(self, message: str, path: Path | None = None) -> None:
        super().__init__(message)
        self.path = path


class _Halt(Exception):
    """Leaves an evaluation."""


class Fitting:
    """One call of `Trainer.fit`: it moves the trainer's cursor on.

    Args:
        trainer: whose network is trained.
        train: the training set.
        test: evaluated to be reported.
        validation: evaluated to choose the best module.
        on_epoch: called after each epoch with its record.
        on_step: called after each batch with the numbers of epoch and batch, from 1.
        checkpoints: where and how often the state is saved.
    """

    def __init__(
        self,
        trainer: Resumable,
        train: Feed,
        test: Feed | None,
        validation: Feed | None,
        on_epoch: Callable[[EpochRecord], None] | None,
        on_step: Callable[[int, int], None] | None,
        checkpoints: Checkpoints | None,
    ) -> None:
        self.trainer = trainer
        self.train = train
        self.test = test
        self.validation = validation
        self.on_epoch = on_epoch
        self.on_step = on_step
        self.checkpoints = checkpoints
        self.active: list[LocalStep] = []
        self._batches = 0
        self._began = 0.0  # the clock when the epoch began, less what it had taken before

    def run(self) -> None:
        """Trains from the cursor to the end.

        Raises:
            Stopped: `Trainer.stop` was called.
            DivergenceError: a loss became infinite or NaN.
        """
        trainer, cursor = self.trainer, self.trainer.cursor
        trainer.network.zero_grad(set_to_none=True)
        for step in trainer.steps:
            step.begin()
        with _forked(trainer.device), closing(trainer.front), closing(trainer.residency):
            generators.seed(trainer.seed, trainer.device)
            trainer.front.batch = cursor.front
            if cursor.generators is not None:
                generators.restore(cursor.generators, trainer.device)
            if cursor.start is not None:
                self.train.go_to(cursor.start["loader"])
            trainer.fitting, trainer.steady = self, True
            try:
                if self.checkpoints is not None:
                    plain(trainer.state_dict())  # what cannot be saved is told before the training
                    self.checkpoints.start(cursor.step)
                self._halt_if_asked()
                for phase in trainer.phases[cursor.epoch :]:
                    self._epoch(phase)
                trainer.network.eval()
                if self.checkpoints is not None:
                    self.checkpoints.try_save(trainer.state_dict(), cursor.step)
            finally:
                if trainer.steady:
                    self.mark()
                trainer.fitting = None
                trainer.halting = False

    def mark(self) -> None:
        """Notes at the cursor what has to be known to go on from here."""
        trainer, cursor = self.trainer, self.trainer.cursor
        cursor.generators = generators.capture(trainer.device)
        cursor.front = trainer.front.batch
        if cursor.batch == 0:
            cursor.steps = {}
            cursor.start = {"generators": cursor.generators, "loader": self.train.position()}
            return
        if self.active:  # else the epoch's other batches are still to come, in this call
            cursor.seconds = time.perf_counter() - self._began
            cursor.steps = {step.number: step_state(step) for step in self.active}

    def _epoch(self, phase: Phase) -> None:
        trainer, cursor = self.trainer, self.trainer.cursor
        trainer.steady = False
        self._began = time.perf_counter() - cursor.seconds
        self.active = [step for step in trainer.steps if step.number in phase.active]
        trainer.network.eval()
        for step in self.active:
            step.module.train()
            if cursor.batch == 0:
                step.meter.reset()
                step.watch.reset()
            else:
                load_step(step, cursor.steps[step.number])
                step.watch.reset(cursor.batch // step.accumulate)
        trainer.residency.begin(phase.active)
        trainer.front.begin(phase.active)
        try:
            train_epoch(
                trainer.steps,
                phase.active,
                trainer.front,
                self.train.batches(cursor.batch, self._go_on()),
                self._between,
                cursor.batch,
            )
        except NotFinite as error:
            raise self._diverged(error, cursor.batch + 1) from error
        trainer.front.end()
        self._look()
        loss, cost, accuracy = measured({s.number: s.meter for s in self.active}, cursor.epoch + 1)
        cursor.seconds = time.perf_counter() - self._began
        rates = {s.number: float(s.optimizers[0].param_groups[0]["lr"]) for s in self.active}
        weights = {} if trainer.weights is None else dict(enumerate(trainer.weights.current()))
        memory = peak_memory(trainer.device)
        number = cursor.epoch + 1
        due = number % trainer.evaluate_every == 0 or number == len(trainer.phases)
        test = self.evaluate(self.test) if due else None
        validation = self.evaluate(self.validation) if due else None
        trainer.steady = False
        trainer.schedulers.step(loss)
        record = EpochRecord(
            epoch=number,
            lap=phase.lap,
            trained=phase.active,
            train_loss=loss,
            train_accuracy=accuracy,
            cost=cost,
            weight={s.number: weights[s.place - 1] for s in self.active if s.weights is not None},
            learning_rate=rates,
            test=test,
            validation=validation,
            seconds=cursor.seconds,
            images=self.active[0].meter.samples,
            memory=memory,
        )
        cursor.records.append(record)
        cursor.epoch, cursor.batch, cursor.seconds = number, 0, 0.0
        trainer.steady = True
        if self.on_epoch is not None:
            self.on_epoch(record)
        if number < len(trainer.phases):
            self._save_if_due()
            self._halt_if_asked()

    def _go_on(self) -> Callable[[], None]:
        """What is to happen before the first batch of the epoch that is not done yet."""
        trainer, cursor = self.trainer, self.trainer.cursor
        if cursor.batch == 0:
            here = generators.capture(trainer.device)
            cursor.start = {"generators": here, "loader": self.train.position()}
            return lambda: None
        assert cursor.start is not None
        generators.restore(cursor.start["generators"], trainer.device)
        now = cursor.generators
        assert now is not None
        return lambda: generators.restore(now, trainer.device)

    def _between(self, batch: int) -> None:
        """Between two batches: here a state is whole."""
        trainer, cursor = self.trainer, self.trainer.cursor
        cursor.batch = batch
        cursor.step += 1
        trainer.steady = True
        if self.on_step is not None:
            self.on_step(cursor.epoch + 1, batch)
        self._save_if_due()
        self._halt_if_asked()
        trainer.steady = False

    def _look(self) -> None:
        """Asks the devices whether an update was not finite; they are waited for."""
        for step in self.active:
            update = step.watch.look()
            if update is not None:
                what = "its loss or gradient is infinite or NaN, and it was updated by that"
                raise self._diverged(NotFinite(step.number, what), update * step.accumulate)

    def _diverged(self, error: NotFinite, batch: int) -> DivergenceError:
        """The error with its place, after the state has been written to be looked at."""
        trainer, saved = self.trainer, ""
        if self.checkpoints is not None:
            path = self.checkpoints.set_aside(state_of(trainer))
            saved = "" if path is None else f" The state is in {path}, to be looked at."
        return DivergenceError(
            f"Module {error.number} diverged in epoch {trainer.cursor.epoch + 1}, step {batch} of "
            f"it: {error.what}. {error.remedy}{saved}"
        )

    def _save_if_due(self) -> None:
        self._batches += 1
        checkpoints, cursor = self.checkpoints, self.trainer.cursor
        due = checkpoints is not None and checkpoints.due(cursor.step)
        if due or self._batches % LATE == 0:
            self._look()  # a state that is not finite never takes a good one's place
        if due and checkpoints is not None:
            checkpoints.try_save(self.trainer.state_dict(), cursor.step)

    def _halt_if_asked(self) -> None:
        trainer, cursor = self.trainer, self.trainer.cursor
        if not trainer.halting:
            return
        path = None
        self._look()
        if self.checkpoints is not None:
            path = self.checkpoints.try_save(trainer.state_dict(), cursor.step)
        saved = "" if path is None else f", and is saved in {path}"
        raise Stopped(
            f"Training was stopped after epoch {cursor.epoch} of {len(trainer.phases)} and "
            f"{cursor.batch} batches of the next one{saved}.",
            path,
        )

    def evaluate(self, feed: Feed | None) -> Evaluation | None:
        """Evaluates, and can be stopped while it does: the epoch is then evaluated again."""
        if feed is None:
            return None
        self.trainer.steady = True
        try:
            return evaluated(self.trainer, self._unless_halted(feed))
        except _Halt:
            self._halt_if_asked()
            raise

    def _unless_halted(self, feed: Feed) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in feed:
            if self.trainer.halting:
                raise _Halt
            yield batch


def evaluated(trainer: Resumable, batches: Iterator[tuple[Tensor, Tensor]]) -> Evaluation:
    """Evaluates all modules of a trainer's network; changes nothing of what training draws."""
    trainer.residency.bring([trainer.network])
    with generators.spared(trainer.device):
        whole = trainer.regime == "end-to-end"
        return evaluate(trainer.network, trainer.steps, batches, whole=whole)


def _forked(device: torch.device) -> AbstractContextManager[None]:
    """Gives the generators of PyTorch back as they were."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
