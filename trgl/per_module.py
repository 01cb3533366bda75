"""What a user gives once for all modules or once for each, resolved for every module."""

from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.optim import Optimizer

from .step import Criterion

OptimizerBuilder = Callable[[list[nn.Parameter]], Optimizer]
Epochs = int | Sequence[int] | Callable[[int], int]


def epochs_of(epochs: Epochs, numbers: Sequence[int]) -> dict[int, int]:
    """Epochs of every module, by number.

    Args:
        epochs: a number, a list of one per module, or a function of the module's number.
        numbers: of the modules that train, front to back.

    Raises:
        ValueError: a list of another length, or epochs that are no whole number ≥ 1.
    """
    if callable(epochs):
        counts = [epochs(number) for number in numbers]
    elif isinstance(epochs, Sequence) and not isinstance(epochs, str):
        counts = list(epochs)
        if len(counts) != len(numbers):
            raise ValueError(
                f"A list of epochs needs one entry for each module that trains, {len(numbers)}, "
                f"but got {len(counts)}."
            )
    else:
        counts = [epochs] * len(numbers)
    for number, count in zip(numbers, counts, strict=True):
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise ValueError(
                f"Epochs must be whole numbers of at least 1, but module {number} has {count!r}."
            )
    return dict(zip(numbers, counts, strict=True))


def criteria_of(
    criterion: Criterion | Sequence[Criterion] | None,
    numbers: Sequence[int],
    device: torch.device,
) -> list[Criterion]:
    """Criteria of all modules; None is cross-entropy.

    Args:
        criterion: (logits, labels) -> 0-dim tensor, or a list of one per module.
        numbers: of the modules that train, front to back.
        device: where criteria with weights of their own go.

    Raises:
        ValueError: a list of another length, or an entry that is no callable.
    """
    criteria: list[Criterion]
    if criterion is None:
        criteria = [nn.CrossEntropyLoss()] * len(numbers)
    elif isinstance(criterion, Sequence | nn.ModuleList):
        criteria = list(criterion)
    else:
        criteria = [criterion] * len(numbers)
    if len(criteria) != len(numbers):
        raise ValueError(
            f"A list of criteria needs one entry for each module that trains, {len(numbers)}, but "
            f"got {len(criteria)}."
        )
    for one in criteria:
        if not callable(one):
            raise ValueError(f"A criterion must be a callable, but got {type(one).__name__}.")
        if isinstance(one, nn.Module):
            one.to(device)
    return criteria


def build_optimizer(
    builder: OptimizerBuilder, parameters: list[nn.Parameter], owner: str
) -> Optimizer:
    """Calls the user's optimizer callable.

    Args:
        builder: from parameters to an Optimizer.
        parameters: of `owner`.
        owner: for errors.

    Raises:
        ValueError: it is no callable, or it returns something else.
    """
    if not callable(builder):
        raise ValueError(
            f"optimizer must be a callable from parameters to an Optimizer, such as "
            f"lambda parameters: torch.optim.SGD(parameters, lr=0.003), but got "
            f"{type(builder).__name__}."
        )
    optimizer = builder(parameters)
    if not isinstance(optimizer, Optimizer) or isinstance(optimizer, torch.optim.LBFGS):
        raise ValueError(
            f"The optimizer callable must return a torch.optim.Optimizer whose step takes no "
            f"closure, but for {owner} it returned {type(optimizer).__name__}."
        )
    return optimizer
