"""Alarms from the counters of a device, which do not know which storages are new."""

import pytest
import torch
from boundaries import MAP, Training, needs_extension
from torch import Tensor, nn

from trgl_kernels.boundary import memory, scope
from trgl_kernels.boundary.schedule import FIRST, WATCH

pytestmark = [
    needs_extension,
    pytest.mark.filterwarnings("ignore::trgl_kernels.boundary.BoundaryWarning"),
]


class DeviceScope:
    """csrc/boundary/scope.h, counting CPU tensors as it counts those of CUDA."""

    def __init__(self, device: int, find: bool) -> None:
        self._scope = memory.scope_class()(-1, find)

    def _counts(self, counts: list[int], outliving: list[Tensor]) -> list[int]:
        requested, live, _, peak, *_ = counts
        sizes = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in outliving}
        return [0, 0, 0, 0, requested, live, live - sum(sizes.values()), peak]

    def close(self, outliving: list[Tensor]) -> list[int]:
        return self._counts(self._scope.close(outliving), outliving)

    def bytes(self, outliving: list[Tensor]) -> list[int]:
        return self._counts(self._scope.bytes(outliving), outliving)

    def made(self, tensors: list[Tensor]) -> list[int]:
        return self._scope.made(tensors) if self._scope.finds() else [-1] * len(tensors)

    def __getattr__(self, name: str) -> object:
        return getattr(self._scope, name)


@pytest.fixture
def training(monkeypatch) -> Training:
    monkeypatch.setattr(scope, "scope_class", lambda: DeviceScope)
    monkeypatch.setattr(scope, "cuda_index", lambda parameter: 0)
    return Training()


def steps_that_searched(training: Training, steps: int, hold) -> list[int]:
    """The steps in which something was found."""
    found = []
    for step in range(steps):
        training.step(hold)
        if training.boundary.held:
            found.append(step)
    return found


def test_a_step_that_keeps_nothing_is_never_searched(training, monkeypatch):
    calls = []
    search = scope.search.search
    monkeypatch.setattr(scope.search, "search", lambda *a: calls.append(1) or search(*a))
    assert steps_that_searched(training, 20, None) == []
    assert len(calls) == FIRST


@pytest.mark.parametrize("width", [64, 1024], ids=["small weights", "weights larger than the leak"])
def test_what_is_held_after_the_first_steps_is_found(training, width):
    training.module.register_module("more", nn.Linear(width, width))
    weights = sum(p.nbytes for p in training.module.parameters())
    assert (weights > 8 * MAP) == (width == 1024)
    assert steps_that_searched(training, FIRST + 3, None) == []

    held: list[Tensor] = []
    found = steps_that_searched(training, 1 + WATCH, lambda y, _: held.append(y.detach() + 1))
    assert found == list(range(1, 1 + WATCH)), "the step after the first that kept something"
    for tensor in held[1:]:
        with pytest.raises(RuntimeError, match="module 3"):
            tensor.sum()


def test_state_that_a_late_step_makes_is_no_leak(training):
    assert steps_that_searched(training, FIRST + 3, None) == []
    training.optimizer.state.clear()  # its momentum is made again
    training.module.register_buffer("late", torch.zeros(1))

    def grows(y: Tensor, loss: Tensor) -> None:
        training.module.late = torch.zeros(2 * MAP)

    assert steps_that_searched(training, 1, grows) == []
    assert training.module.late.sum() == 0
    assert steps_that_searched(training, 5, None) == []
