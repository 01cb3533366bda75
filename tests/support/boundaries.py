"""For the tests of the boundary: a module, its step, and what the extension is needed for."""

import contextlib
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trgl_kernels.boundary import ModuleBoundary
from trgl_kernels.boundary.memory import SMALL, absence, native

needs_extension = pytest.mark.skipif(
    native() is None, reason=f"needs the compiled extension: {absence()}"
)


MAP = 64 * 64 * 4  # bytes of a map of such a layer


class Layers(nn.Module):
    """Three layers whose maps are larger than what stays readable: 64 × 64 × 4 = 16 KiB."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(64, 64), nn.BatchNorm1d(64), nn.Tanh(), nn.Linear(64, 64)
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return y


def batch() -> Tensor:  # [64, 64]
    return torch.randn(64, 64)


def train(module: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor) -> tuple[Tensor, Tensor]:
    """A step: features and loss, whose graph is gone."""
    y = module(x)
    loss = y.square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return y, loss


def momentum(module: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)


class Training:
    """A module whose optimizer state is there, and its boundary."""

    def __init__(self, **options):
        self.module = Layers()
        self.optimizer = momentum(self.module)
        train(self.module, self.optimizer, batch())  # allocates the optimizer's state
        self.boundary = ModuleBoundary("module 3", [self.module], [self.optimizer], **options)
        self.x = batch()

    def step(self, hold=None):
        """One step in the scope; `hold` is given what it made, in a frame that ends before."""
        with self.boundary:
            return self._inside(hold)

    def owned(self) -> list[Tensor]:
        """What was there before any step."""
        return [self.x, *self.module.parameters(), *self.module.buffers()]

    def _inside(self, hold):
        y, loss = train(self.module, self.optimizer, self.x)
        if hold is not None:
            hold(y, loss)
        return self.boundary.cross(y)


def small_bytes(
    tensors: Iterable[Tensor],
    owned: Iterable[Tensor] = (),
) -> int:
    """What of these tensors, and of the graphs behind them, is small enough to stay readable.

    Bytes of storages, each counted once, without those of `owned`. What nodes that are written in
    C++ saved is not seen.
    """
    seen = {t.untyped_storage()._cdata for t in owned}
    nodes = set()
    size = 0
    waiting: list[Any] = list(tensors)
    while waiting:
        thing = waiting.pop()
        if isinstance(thing, Tensor):
            waiting.append(thing.grad_fn)
            storage = thing.untyped_storage()
            if storage._cdata not in seen:
                seen.add(storage._cdata)
                size += storage.nbytes() if storage.nbytes() <= SMALL else 0
        elif thing is not None and thing not in nodes:
            nodes.add(thing)
            waiting += [node for node, _ in thing.next_functions]
            for name in dir(thing):
                if name.startswith("_saved_"):
                    with contextlib.suppress(RuntimeError):  # let go of, as after a backward
                        value = getattr(thing, name)
                        waiting += [value] if isinstance(value, Tensor) else []
    return size


class Detach:
    """In place of a boundary: plain reference counting."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def cross(self, y: Tensor) -> Tensor:
        return y.detach()

    def keep(self, t: Tensor) -> Tensor:
        return t


def raises_the_name(function):
    with pytest.raises(RuntimeError, match="boundary 'module 3'"):
        function()
