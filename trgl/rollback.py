"""An update that is done as a whole or not at all, though memory may run out in it."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class Rollback:
    """Takes back an update that fails while its optimizers still allocate their state.

    An optimizer makes the state of a parameter in the parameter's first update. Before that update
    all that it can change is copied to the host. Later updates copy nothing: those of an optimizer
    with fused=True allocate nothing either, while the others need room for temporaries.

    Args:
        optimizers: that step one after the other.
        parameters: of all of them.

    Attributes:
        broken: an update failed and could not be taken back, or one is under way.
    """

    def __init__(self, optimizers: Sequence[Optimizer], parameters: Sequence[nn.Parameter]) -> None:
        self.broken = False
        self._optimizers = optimizers
        self._parameters = parameters
        self._updated: set[nn.Parameter] = set()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Around an update: an error leaves what was there before, if it can."""
        taking = {p for p in self._parameters if p.grad is not None}
        saved = None if taking <= self._updated else _Saved(self._optimizers, self._parameters)
        self.broken = True
        try:
            yield
        except BaseException:
            if saved is not None:
                saved.restore()
                self.broken = False
            raise
        self.broken = False
        self._updated |= taking


class _Saved:
    """Parameters and the state of their optimizers, on the host."""

    def __init__(self, optimizers: Sequence[Optimizer], parameters: Sequence[nn.Parameter]) -> None:
        self._parameters = [(p, _copy(p)) for p in parameters]
        self._states = [
            (
                optimizer,
                {
                    p: {key: (value, _copy(value)) for key, value in state.items()}
                    for p, state in optimizer.state.items()
                },
            )
            for optimizer in optimizers
        ]

    @torch.no_grad()
    def restore(self) -> None:
        """Writes them back into the tensors they are of, which allocates nothing there."""
        for parameter, values in self._parameters:
            parameter.copy_(values)
        for optimizer, states in self._states:
            optimizer.state.clear()
            for owner, state in states.items():
                kept = optimizer.state[owner]
                for key, (value, saved) in state.items():
                    kept[key] = value.copy_(saved) if isinstance(value, Tensor) else saved


def _copy(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    return copy.deepcopy(value)
