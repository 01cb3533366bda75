"""For the tests of the boundary: a module, its step, and what the extension is needed for."""

import pytest
import torch
from torch import Tensor, nn

from trgl_kernels.boundary.memory import absence, native

needs_extension = pytest.mark.skipif(
    native() is None, reason=f"needs the compiled extension: {absence()}"
)


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
