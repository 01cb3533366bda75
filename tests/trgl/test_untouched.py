"""Looking for shapes runs a user's layers, and leaves no trace on them."""

import math

import pytest
import torch
from small import CLASSES, SHAPE, batches, sgd
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

import trgl


class Counting(nn.Module):
    """Counts its calls in place and anew, and keeps a mask that it makes when first needed."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.register_buffer("calls", torch.zeros(1))
        self.register_buffer("anew", torch.zeros(1))
        self.register_buffer("made", None)
        self.mask = None

    def forward(self, x):
        self.calls += 1
        self.anew = self.anew + 1
        if self.mask is None:
            self.mask = torch.ones(1)
            self.masks = [self.mask]
            self.made = torch.ones(1)
            self.register_buffer("later", torch.ones(1))
        return self.layer(x) * self.mask * self.masks[0] * self.made * self.later


def head(shape, classes):
    return Counting(nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), classes)))


def counting(net):
    return [layer for layer in net.modules() if isinstance(layer, Counting)]


def assert_no_trace(layers):
    assert layers
    for layer in layers:
        assert layer.calls == layer.anew == 0
        assert layer.made is layer.mask is None
        assert not hasattr(layer, "masks")
        assert set(layer._buffers) == {"calls", "anew", "made"}
        assert not any(isinstance(value, FakeTensor) for value in layer.buffers())


@pytest.mark.parametrize("shared", [False, True])
def test_a_split_leaves_heads_and_layers_as_they_were(shared):
    layers = [Counting(nn.Conv2d(SHAPE[0] if k == 0 else 4, 4, 3, padding=1)) for k in range(3)]
    net = trgl.split(
        nn.Sequential(*layers), 3, SHAPE, CLASSES, head, energy="displacement", shared_head=shared
    )
    assert_no_trace(counting(net))
    net(batches()[0][0])
    assert all(layer.calls == 1 and layer.mask is not None for layer in layers)


def test_sizing_a_cache_leaves_frozen_modules_as_they_were():
    layers = [Counting(nn.Conv2d(SHAPE[0] if k == 0 else 4, 4, 3)) for k in range(2)]
    net = trgl.split(nn.Sequential(*layers), 2, SHAPE, CLASSES, "linear")
    trainer = trgl.Trainer(net, "sequential", optimizer=sgd, epochs=1, cache="memory")
    trainer.check_cache(batches())
    assert_no_trace(counting(net))
    trainer.fit(batches())
    assert counting(net)[0].calls > 0
