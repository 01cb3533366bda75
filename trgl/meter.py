"""What a module's steps measure over an epoch."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor


class DivergenceError(RuntimeError):
    """A loss or a gradient became infinite or NaN; the message names the module and the place."""


class Meter:
    """Sums over an epoch, kept on the device until they are shown.

    Args:
        device: of the module.
        penalized: whether there is a transport cost.
    """

    def __init__(self, device: torch.device, penalized: bool = False) -> None:
        self.penalized = penalized
        exact = torch.float32 if device.type == "mps" else torch.float64
        self.sums = torch.zeros(3, device=device, dtype=exact)  # criterion, cost, correct
        self._criterion, self._cost, self._correct = self.sums.unbind()
        self.samples = 0

    def reset(self) -> None:
        """Begins an epoch."""
        self.sums.zero_()
        self.samples = 0

    def add(
        self,
        criterion: Tensor,  # [], or the local loss in its place
        cost: Tensor | None,  # []
        logits: Tensor,  # [N, classes]
        labels: Tensor,  # [N], or [N, classes] for soft ones
    ) -> None:
        """Adds a batch; reads nothing back."""
        count = labels.shape[0]
        self.samples += count
        self._criterion.add_(criterion.detach(), alpha=count)
        if cost is not None:
            self._cost.add_(cost.detach(), alpha=count)
        classes = labels if labels.dim() == 1 else labels.argmax(1)
        self._correct.add_((logits.detach().argmax(1) == classes).sum())


def measured(
    meters: Mapping[int, Meter], epoch: int
) -> tuple[dict[int, float], dict[int, float], dict[int, float]]:
    """Reads the meters of an epoch: mean criterion, cost and accuracy by module number.

    Args:
        meters: of the modules that trained, by number.
        epoch: for errors.

    Raises:
        DivergenceError: a sum is infinite or NaN.
    """
    loss: dict[int, float] = {}
    cost: dict[int, float] = {}
    accuracy: dict[int, float] = {}
    sums = torch.stack([meter.sums for meter in meters.values()]).tolist()
    for (number, meter), (criterion, energy, correct) in zip(meters.items(), sums, strict=True):
        samples = meter.samples
        loss[number], accuracy[number] = criterion / samples, correct / samples
        if meter.penalized:
            cost[number] = energy / samples
        if not math.isfinite(criterion + energy):
            raise DivergenceError(
                f"Module {number} diverged in epoch {epoch}: its loss is {criterion / samples} "
                f"and its transport cost {energy / samples}. Lower the learning rate, raise "
                f"tau, or bound the gradients with clip_norm."
            )
    return loss, cost, accuracy
