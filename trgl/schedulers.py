"""Learning-rate schedules: one per optimizer, stepped by the epochs of its module."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

SHAPES = ("constant", "milestones", "cosine")


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A learning rate over the epochs of each module, however many these are.

    With base rate a, epochs E, warm-up W and minimum m, in epoch t from 0:

        t < W        a (t + 1) / (W + 1)
        constant     a
        milestones   a / divisor^(number of milestones ≤ t)
        cosine       m + (a − m) (1 + cos(π (t − W) / (E − W))) / 2

    In a multi-lap run it goes on across laps. For a head that modules share, E is the number of
    epochs in which any of them trains.

    Args:
        shape: "constant", "milestones" or "cosine".
        milestones: epochs after which the rate is divided, ≥ 1, ascending.
        divisor: > 1.
        warmup: W ≥ 0 epochs, less than those of any module.
        minimum: m ≥ 0, below the rate of every optimizer.

    Raises:
        ValueError: a setting out of its range; when a run is prepared, a warm-up as long as a
            module's epochs or a minimum above a learning rate.

    Source: Loshchilov & Hutter, "SGDR", ICLR 2017, equation 5 (cosine, without restarts).
    """

    shape: str = "constant"
    milestones: tuple[int, ...] = ()
    divisor: float = 5.0
    warmup: int = 0
    minimum: float = 0.0

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise ValueError(
                f"The shape of a Schedule must be one of {', '.join(SHAPES)}, but got "
                f"{self.shape!r}. Leave it out for a constant rate."
            )
        steps = list(self.milestones)
        if any(not _is_whole(t) or t < 1 for t in steps) or steps != sorted(set(steps)):
            raise ValueError(
                f"Milestones must be epochs from 1 on in increasing order, but got {steps}. Sort "
                f"them and drop repetitions."
            )
        if not _is_whole(self.warmup) or self.warmup < 0:
            raise ValueError(
                f"warmup must be a whole number of epochs, at least 0, but got {self.warmup!r}."
            )
        for name, value, least in (("divisor", self.divisor, 1), ("minimum", self.minimum, 0)):
            fits = isinstance(value, Real) and math.isfinite(value)
            if not fits or value < least or (value == least and name == "divisor"):
                raise ValueError(
                    f"{name} must be a finite number {'above 1' if least else 'of at least 0'}, "
                    f"but got {value!r}. Leave it out for the default."
                )

    def rate(self, base: float, epoch: int, epochs: int) -> float:
        """The learning rate in one epoch.

        Args:
            base: a.
            epoch: t, from 0; from E on it stays as it is at E.
            epochs: E.
        """
        if epoch < self.warmup:
            return base * (epoch + 1) / (self.warmup + 1)
        if self.shape == "cosine":
            done = min(1.0, (epoch - self.warmup) / (epochs - self.warmup))
            return self.minimum + (base - self.minimum) * (1 + math.cos(math.pi * done)) / 2
        rate = base
        if self.shape == "milestones":
            for milestone in self.milestones:
                if milestone <= epoch:
                    rate *= 1 / self.divisor  # rounded as torch's MultiStepLR does
        return rate

    def start(self, optimizer: Optimizer, epochs: int) -> LRScheduler:
        """A scheduler of this shape over `epochs` epochs.

        Raises:
            ValueError: the warm-up is as long as that, or the minimum above a learning rate.
        """
        if self.warmup >= epochs:
            raise ValueError(
                f"A warm-up must be shorter than the epochs of every module, but got "
                f"{self.warmup} epochs with one that trains for {epochs}. Shorten it."
            )
        lowest = min(group["lr"] for group in optimizer.param_groups)
        if self.shape == "cosine" and self.minimum > lowest:
            raise ValueError(
                f"The minimum of a cosine must not be above the learning rate, but got "
                f"{self.minimum} with {float(lowest)}. Lower it."
            )
        return _Scheduled(optimizer, self, epochs)


class _Scheduled(LRScheduler):
    """A `Schedule` at work; its state_dict holds numbers only."""

    def __init__(self, optimizer: Optimizer, schedule: Schedule, epochs: int) -> None:
        self.schedule = schedule
        self.epochs = epochs
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        """The rates of the epoch that begins."""
        return [
            self.schedule.rate(float(base), self.last_epoch, self.epochs) for base in self.base_lrs
        ]

    def state_dict(self) -> dict[str, Any]:
        """Where it stands; its shape and length are settings."""
        state: dict[str, Any] = super().state_dict()
        return {key: value for key, value in state.items() if key not in ("schedule", "epochs")}


SchedulerBuilder = Callable[[Optimizer], LRScheduler] | Schedule


class Schedulers:
    """The schedulers of a run.

    Args:
        builder: from an Optimizer to a scheduler, or a `Schedule`; None leaves the learning rates
            as they are.
        own: optimizers of every module's own parameters, by module number.
        shared: optimizers of what the modules from 1 on share.
        epochs: of every module, by its number.
        total: epochs of the run in which modules from 1 on train.

    Raises:
        ValueError: the builder is no callable, or gives no scheduler; a `Schedule` that does not
            fit.
    """

    def __init__(
        self,
        builder: SchedulerBuilder | None,
        own: Mapping[int, Sequence[Optimizer]],
        shared: Sequence[Optimizer],
        epochs: Mapping[int, int],
        total: int,
    ) -> None:
        self.own: dict[int, list[LRScheduler]] = {}
        self.shared: list[LRScheduler] = []
        if builder is not None:
            for number, each in own.items():
                self.own[number] = [_build(builder, o, epochs[number]) for o in each]
            self.shared = [_build(builder, o, total) for o in shared]

    def step(self, losses: Mapping[int, float]) -> None:
        """Ends an epoch.

        Args:
            losses: of the modules that trained in it, for ReduceLROnPlateau; the shared ones are
                given the mean of those from 1 on, and do not step without one of them.
        """
        for number, loss in losses.items():
            for scheduler in self.own.get(number, ()):
                _step(scheduler, loss)
        sharing = [loss for number, loss in losses.items() if number > 0]
        for scheduler in self.shared if sharing else ():
            _step(scheduler, sum(sharing) / len(sharing))


def _build(builder: SchedulerBuilder, optimizer: Optimizer, epochs: int) -> LRScheduler:
    if isinstance(builder, Schedule):
        return builder.start(optimizer, epochs)
    if not callable(builder):
        raise ValueError(
            f"scheduler must be a callable from an Optimizer to a scheduler, such as lambda "
            f"optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 30), because every module has "
            f"its own, or a trgl.Schedule, but got {type(builder).__name__}. Wrap it in a callable."
        )
    scheduler = builder(optimizer)
    if not callable(getattr(scheduler, "step", None)):
        raise ValueError(
            f"The scheduler callable must return a scheduler, which has a method step, but it "
            f"returned {type(scheduler).__name__}. Let it return the scheduler."
        )
    return scheduler


def _step(scheduler: LRScheduler, loss: float) -> None:
    if isinstance(scheduler, ReduceLROnPlateau):
        scheduler.step(loss)
    else:
        scheduler.step()


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
