"""The linear layer on flattened features, in both layouts."""

import pytest
import torch
from torch import nn
from torch.nn.functional import linear

from trgl.flat_linear import FlatLinear
from trgl.memory.saved import SavedCounter


@pytest.mark.parametrize("shape", [(5,), (4, 3), (4, 3, 5), (1, 3, 5), (4, 1, 1), (4, 3, 2, 2)])
@pytest.mark.parametrize("last", [False, True], ids=["NCHW", "channels_last"])
def test_is_flatten_and_linear(shape, last):
    layer = FlatLinear(torch.Size(shape).numel(), 3).double()
    x = torch.randn(6, *shape, dtype=torch.float64)
    if last and x.dim() == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    x.requires_grad_()
    logits = layer(x)
    expected = linear(x.flatten(1), layer.weight, layer.bias)
    torch.testing.assert_close(logits, expected, rtol=1e-13, atol=1e-13)
    cotangent = torch.randn_like(logits)
    inputs = (x, layer.weight, layer.bias)
    for ours, theirs in zip(
        torch.autograd.grad(logits, inputs, cotangent),
        torch.autograd.grad(expected, inputs, cotangent),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-13)


def test_maps_in_channels_last_are_neither_copied_nor_their_gradient():
    layer = FlatLinear(4 * 6 * 6, 3)
    x = torch.randn(8, 4, 6, 6).contiguous(memory_format=torch.channels_last).requires_grad_()
    counter = SavedCounter([x, *layer.parameters()])
    with counter.watch():
        logits = layer(x)
    assert sum(counter.storages().values()) == layer.weight.nbytes  # in the order of the maps
    (grad,) = torch.autograd.grad(logits.sum(), x)
    assert grad.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("batch", "copied"), [(3, "weight"), (2, "maps")])
def test_the_smaller_of_weights_and_maps_is_copied(batch, copied):
    layer = FlatLinear(4 * 6 * 6, 3)
    x = torch.randn(batch, 4, 6, 6).contiguous(memory_format=torch.channels_last).requires_grad_()
    counter = SavedCounter([x, *layer.parameters()])
    with counter.watch():
        layer(x)
    expected = {"weight": layer.weight, "maps": x}[copied].nbytes
    assert sum(counter.storages().values()) == expected


def test_exports_for_any_batch_in_channels_last():
    layer = FlatLinear(4 * 6 * 6, 3)
    x = torch.randn(8, 4, 6, 6).contiguous(memory_format=torch.channels_last)
    program = torch.export.export(layer, (x,), dynamic_shapes=({0: torch.export.Dim("N")},))
    for n in (2, 5):
        torch.testing.assert_close(program.module()(x[:n]), layer(x[:n]))


def test_has_the_weights_of_a_linear_layer():
    torch.manual_seed(0)
    ours = FlatLinear(12, 3)
    torch.manual_seed(0)
    theirs = nn.Linear(12, 3)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    assert torch.equal(ours.weight, theirs.weight)
    exported = torch.export.export(ours, (torch.randn(2, 3, 2, 2),))
    x = torch.randn(2, 3, 2, 2)
    assert torch.equal(exported.module()(x), theirs(x.flatten(1)))
