"""For the tests of the boundary: a module, its step, and what the extension is needed for."""

import pytest
import torch
from torch import Tensor, nn

from trgl_kernels.boundary import ModuleBoundary
from trgl_kernels.boundary.memory import absence, native

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

    def _inside(self, hold):
        y, loss = train(self.module, self.optimizer, self.x)
        if hold is not None:
            hold(y, loss)
        return self.boundary.cross(y)


def raises_the_name(function):
    with pytest.raises(RuntimeError, match="boundary 'module 3'"):
        function()
