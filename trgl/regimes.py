"""The order of steps: which modules train in which epoch, and what happens in one."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from .step import LocalStep

REGIMES = ("parallel", "sequential", "multi-lap", "end-to-end")


@dataclass(frozen=True)
class Phase:
    """One epoch of a run.

    Args:
        active: numbers of the modules that train; those in front of them are frozen.
        lap: from 1.
    """

    active: tuple[int, ...]
    lap: int = 1


def schedule(regime: str, epochs: Mapping[int, int], laps: int = 1) -> list[Phase]:
    """The epochs of a run, in order.

    Parallel and end-to-end: all modules train on every batch; one whose epochs are over is frozen
    while others go on. Sequential: module after module, each for its epochs. Multi-lap: `laps`
    times sequential with 1/laps of each module's epochs.

    Args:
        regime: one of `REGIMES`.
        epochs: of every module, ≥ 1, by module number, front to back.
        laps: R ≥ 1; 1 unless the regime is multi-lap.

    Raises:
        ValueError: another regime, laps that the regime does not have, or epochs that R does not
            divide.

    Source: TRGL (Karkar et al., NeurIPS 2023), section 3.2.
    """
    if regime not in REGIMES:
        raise ValueError(f"regime must be one of {', '.join(REGIMES)}, but got {regime!r}.")
    if not isinstance(laps, int) or laps < 1:
        raise ValueError(f"laps must be a whole number of at least 1, but got {laps!r}.")
    if laps > 1 and regime != "multi-lap":
        raise ValueError(
            f"Only the regime 'multi-lap' has several laps, but got laps={laps} with {regime!r}. "
            f"Use laps=1 or regime='multi-lap'."
        )
    if regime in ("parallel", "end-to-end"):
        longest = max(epochs.values())
        return [
            Phase(tuple(number for number, count in epochs.items() if epoch < count))
            for epoch in range(longest)
        ]
    for number, count in epochs.items():
        if count % laps:
            raise ValueError(
                f"Each of {laps} laps takes 1/{laps} of a module's epochs, but module {number} has "
                f"{count} epochs, which {laps} does not divide. Use "
                f"{count - count % laps + laps} epochs, or another number of laps."
            )
    return [
        Phase((number,), lap)
        for lap in range(1, laps + 1)
        for number, count in epochs.items()
        for _ in range(count // laps)
    ]


def train_epoch(
    steps: Sequence[LocalStep],
    active: Sequence[int],
    front: Callable[[Tensor], Tensor],
    batches: Iterable[tuple[Tensor, Tensor]],
    on_batch: Callable[[int], None] | None = None,
    done: int = 0,
) -> None:
    """One epoch: on each batch, module after module up to the last one that trains.

    Args:
        steps: of the modules, front to back.
        active: numbers of those that train; others between them hand on their features without a
            gradient.
        front: what all in front of the first that trains make of the images.
        batches: pairs of images [N, C, H, W] and labels [N], on the device.
        on_batch: called after each batch with its number from 1.
        done: batches of the epoch that are done; `batches` are the others.
    """
    first, last = min(active), max(active)
    needed = [(step, step.number in active) for step in steps if first <= step.number <= last]
    for count, (images, labels) in enumerate(batches, done + 1):
        x = front(images)
        for step, trains in needed:
            x = step(x, labels, images) if trains else step.skip(x)
        if on_batch is not None:
            on_batch(count)
    for step, trains in needed:
        if trains:
            step.update()
