"""Learning-rate schedules: one per optimizer, stepped by the epochs of its module."""

from collections.abc import Callable, Mapping, Sequence

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

SchedulerBuilder = Callable[[Optimizer], LRScheduler]


class Schedulers:
    """The schedulers of a run.

    Args:
        builder: from an Optimizer to a scheduler; None leaves the learning rates as they are.
        own: optimizers of every module's own parameters, by module number.
        shared: optimizers of what modules share.

    Raises:
        ValueError: the builder is no callable, or gives no scheduler.
    """

    def __init__(
        self,
        builder: SchedulerBuilder | None,
        own: Mapping[int, Sequence[Optimizer]],
        shared: Sequence[Optimizer],
    ) -> None:
        self.own: dict[int, list[LRScheduler]] = {}
        self.shared: list[LRScheduler] = []
        if builder is not None:
            self.own = {number: [_build(builder, o) for o in each] for number, each in own.items()}
            self.shared = [_build(builder, o) for o in shared]

    def step(self, losses: Mapping[int, float]) -> None:
        """Ends an epoch.

        Args:
            losses: of the modules that trained in it, for ReduceLROnPlateau; the shared ones are
                given their mean.
        """
        mean = sum(losses.values()) / len(losses)
        for number, loss in losses.items():
            for scheduler in self.own.get(number, ()):
                _step(scheduler, loss)
        for scheduler in self.shared:
            _step(scheduler, mean)


def _build(builder: SchedulerBuilder, optimizer: Optimizer) -> LRScheduler:
    if not callable(builder):
        raise ValueError(
            f"scheduler must be a callable from an Optimizer to a scheduler, such as lambda "
            f"optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 30), because every module has "
            f"its own, but got {type(builder).__name__}. Wrap it in a callable."
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
