"""The process's resident memory returns to where it was, whoever holds on to what steps made."""

import gc

import pytest
import torch
from boundaries import needs_extension, small_bytes
from torch import nn

from trgl_kernels.boundary import ModuleBoundary, live_bytes, trim
from trgl_kernels.boundary.memory import resident_bytes

pytestmark = [
    needs_extension,
    pytest.mark.filterwarnings("ignore::trgl_kernels.boundary.BoundaryWarning"),
]
MAP = 4096 * 1024 * 4  # bytes: 16 MiB
STEPS = 50


class Maps(nn.Module):
    """Four maps, at little cost."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1024))
        self.layers = nn.ModuleList(nn.ReLU() for _ in range(3))

    def forward(self, x):
        y = x * self.weight
        for layer in self.layers:
            y = layer(y)
        return y


def hooks(module, kept):
    for layer in module.layers:
        layer.register_forward_hook(lambda _m, inputs, output: kept.extend((*inputs, output)))


def retained(module, kept):
    def backward(y):
        loss = y.mean()
        loss.backward(retain_graph=True)
        kept.append(loss)

    return backward


def raising(module, kept):
    def fail(_m, inputs):
        kept.append(inputs[0] * 2)
        raise KeyError("the user's own")

    module.layers[2].register_forward_pre_hook(fail)


@pytest.mark.parametrize("hold", [hooks, retained, raising])
def test_the_process_does_not_grow(hold):
    module, kept, errors = Maps(), [], []
    boundary = ModuleBoundary("module 3", [module])
    x = torch.ones(4096, 1024)

    def step(backward):
        try:
            with boundary:
                backward(module(x))
        except KeyError as error:
            errors.append(error)  # with its traceback, whose frames have maps
        module.zero_grad()

    def plain(y):
        y.mean().backward()

    for _ in range(5):  # nothing is held yet, and the first steps, which find, are over
        step(plain)
    gc.collect()
    trim()
    live, resident = live_bytes(), resident_bytes()
    backward = hold(module, kept) or plain
    for number in range(1, STEPS + 1):
        step(backward)
        tensors = [t for t in kept if isinstance(t, torch.Tensor)]
        assert live_bytes() - live == small_bytes(tensors, [x, module.weight])
        if number % 10 == 1:  # of the first step, too: no allocator has kept it for a later one
            trim()
            # 5 % of a large process are more than a step's maps, of which not one may stay
            assert abs(resident_bytes() - resident) < min(0.05 * resident, MAP)
    assert boundary.total.freed_by_force >= STEPS * 2 * MAP
    assert len(errors) == (STEPS if hold is raising else 0)
