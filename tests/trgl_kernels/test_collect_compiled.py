"""collect_energy inside and around what torch.compile and torch.export make."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn

from trgl_kernels import RegularizedResidual, collect_energy
from trgl_kernels.collect import current


def block() -> RegularizedResidual:
    return RegularizedResidual(nn.Linear(6, 6))


class Penalized(nn.Module):
    """A model that collects inside its own forward."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(block(), block())

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with collect_energy() as energies:
            y = self.body(x)
        return y, energies.total()


@pytest.mark.parametrize("place", ["inside", "around"])
def test_survives_compilation(place) -> None:
    model, x = Penalized(), torch.randn(5, 6)
    y, cost = model(x)
    if place == "inside":
        compiled = torch.compile(model, fullgraph=True)(x)
    else:
        body = torch.compile(model.body, fullgraph=True)
        with collect_energy() as energies:
            features = body(x)
        compiled = features, energies.total()
        assert len(energies) == 2
    torch.testing.assert_close(compiled, (y, cost))
    assert current() is None


def in_a_new_thread(run: Callable[[], None]) -> None:
    """Where no collector has been open yet: torch.compile guards what it finds."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(run).result()


def test_what_was_compiled_outside_of_any_scope_collects_inside() -> None:
    layer, x = block(), torch.randn(5, 6)
    compiled = torch.compile(layer, backend="eager")

    def run() -> None:
        compiled(x)
        with collect_energy() as energies:
            layer(x)
            compiled(x)
        assert len(energies) == 2

    in_a_new_thread(run)


def test_a_compiled_scope_is_entered_again() -> None:
    model, x = Penalized(), torch.randn(5, 6)
    compiled = torch.compile(model, backend="eager", fullgraph=True)

    def run() -> None:
        for _ in range(3):
            torch.testing.assert_close(compiled(x), model(x))

    in_a_new_thread(run)


def test_a_compiled_scope_takes_other_shapes_and_exponents() -> None:
    layer = block()

    def step(x: Tensor, p: float) -> Tensor:
        with collect_energy(p) as energies:
            y = layer(x)
        return y.sum() + energies.total()

    compiled = torch.compile(step, backend="eager", fullgraph=True, dynamic=True)
    for size, p in ((5, 2.0), (7, 2.0), (7, 1.5), (7, 1.25)):
        x = torch.randn(size, 6)
        torch.testing.assert_close(compiled(x, p), step(x, p))


def test_survives_export() -> None:
    model, x = Penalized(), torch.randn(5, 6)
    exported = torch.export.export(model, (x,)).module()
    torch.testing.assert_close(exported(x), model(x))
