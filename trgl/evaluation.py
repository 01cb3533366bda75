"""Accuracy and loss of every module on a data set, in one pass."""

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from .metrics import Evaluation
from .network import GreedyNetwork
from .step import LocalStep


@torch.no_grad()
def evaluate(
    network: GreedyNetwork,
    steps: Sequence[LocalStep],
    feed: Iterable[tuple[Tensor, Tensor]],
    whole: bool = False,
) -> Evaluation:
    """Evaluates all modules; nothing is read from the device before the end.

    The network is left in evaluation mode.

    Args:
        network: in whose order the modules run.
        steps: of the modules: their criteria and precision.
        feed: batches of the data set.
        whole: the network is trained as one module, and only its last head is evaluated.

    Raises:
        ValueError: an empty set, or images or labels that do not fit the network.
    """
    network.eval()
    sums = {step.number: torch.zeros_like(step.meter.sums) for step in steps}
    samples = 0
    for images, labels in feed:
        samples += labels.shape[0]
        classes = labels if labels.dim() == 1 else labels.argmax(1)
        with steps[0].precision():
            for step, logits in _logits(network, steps, images, whole):
                criterion, _, correct = sums[step.number].unbind()
                criterion.add_(step.criterion(logits, labels), alpha=labels.shape[0])
                correct.add_((logits.argmax(1) == classes).sum())
    values = torch.stack(list(sums.values())).tolist()
    return Evaluation(
        modules=tuple(sums),
        accuracy=tuple(correct / samples for _, _, correct in values),
        loss=tuple(criterion / samples for criterion, _, _ in values),
        samples=samples,
    )


def _logits(
    network: GreedyNetwork, steps: Sequence[LocalStep], images: Tensor, whole: bool
) -> Iterator[tuple[LocalStep, Tensor]]:
    if whole:
        yield steps[0], network(images)
        return
    for step, (_, _, logits) in zip(steps, network.walk(images), strict=True):
        yield step, logits
