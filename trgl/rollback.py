"""First updates that are done as a whole or not at all, though memory may run out in them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_map_only

from .accidents import is_full


class Rollback:
    """Takes back a parameter's first update of a run, if it fails.

    That is where the need of memory grows: optimizers make their state, and need temporaries.
    Before it, parameters, `state` and `param_groups` are copied to the host. Later updates copy
    nothing; if one fails, the module may be updated in part.

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

    def begin(self) -> None:
        """Begins a run."""
        self.broken = False
        self._updated.clear()

    @contextmanager
    def undone_if_it_fails(self) -> Iterator[None]:
        """Around an update."""
        new = set[nn.Parameter]()
        if len(self._updated) < len(self._parameters):
            new = {p for p in self._parameters if p.grad is not None} - self._updated
        saved = _saved(self._optimizers, self._parameters) if new else None
        self.broken = True
        try:
            yield
        except BaseException:
            if saved is not None:
                saved.restore()
                self.broken = False
            raise
        self.broken = False
        self._updated |= new


class _Saved:
    """Parameters, states of optimizers and their groups, with a copy of each tensor on the host."""

    def __init__(self, optimizers: Sequence[Optimizer], parameters: Sequence[nn.Parameter]) -> None:
        self._parameters = [(p, _to_host(p)) for p in parameters]
        self._states = [(o.state, _copied(dict(o.state))) for o in optimizers]
        self._groups = [
            (group, _copied({key: value for key, value in group.items() if key != "params"}))
            for o in optimizers
            for group in o.param_groups
        ]

    @torch.no_grad()
    def restore(self) -> None:
        """Writes the copies back into the tensors they are of, which allocates nothing there."""
        for parameter, values in self._parameters:
            parameter.copy_(values)
        for state, saved in self._states:
            state.clear()
            state.update(_put_back(saved))
        for group, saved in self._groups:
            for key in group.keys() - saved.keys() - {"params"}:
                del group[key]
            group.update(_put_back(saved))


class _Copy:
    """A tensor and its values on the host."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self.values = _to_host(tensor)


def _saved(optimizers: Sequence[Optimizer], parameters: Sequence[nn.Parameter]) -> _Saved | None:
    try:
        return _Saved(optimizers, parameters)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not is_full(error):
            raise
        return None  # the host is full: the update may go well all the same


def _to_host(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True)


def _copied(tree: Any) -> Any:
    return tree_map_only(Tensor, _Copy, tree)


def _put_back(tree: Any) -> Any:
    return tree_map_only(_Copy, lambda copy: copy.tensor.copy_(copy.values), tree)
