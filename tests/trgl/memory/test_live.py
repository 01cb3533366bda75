"""Storages without data, from their making to their end, and the peak of their bytes."""

import gc

import pytest
import torch
from torch import nn

from trgl.memory.fake import Fakes
from trgl.memory.live import LiveBytes

MAP = 100 * 4


@pytest.fixture
def mode():
    with Fakes().mode as mode:
        yield mode


def sizes(live):
    return [size for _, size in live.events]


def test_follows_each_storage_from_its_making_to_its_end(mode):
    x = torch.ones(100)
    with LiveBytes([x]) as live:
        y = x + 1
        view = y.view(10, 10)[2:]
        del y
        view.mul_(2)
        z = view.sum()
        del view
    assert live.events == [(0, MAP), (1, MAP), (2, 4), (1, -MAP)]
    assert live.peak() == 2 * MAP + 4
    assert [live.number(t) for t in (x, z)] == [0, 2]
    assert live.number(torch.ones(3)) is None


def test_a_storage_that_was_there_counts_once_and_until_its_end(mode):
    x = torch.ones(100)
    with LiveBytes([x, x.view(4, 25), x[3:]]) as live:
        del x
        gc.collect()
        torch.ones(50)
    assert sizes(live) == [MAP, -MAP, 200, -200]
    assert live.peak() == MAP


def test_an_address_that_is_used_again_is_another_storage(mode):
    with LiveBytes() as live:
        for _ in range(20):
            torch.ones(100)
    assert live.events == [(n, sign * MAP) for n in range(20) for sign in (1, -1)]
    assert live.peak() == MAP


def test_the_peak_of_a_part(mode):
    with LiveBytes() as live:
        a = torch.ones(100)
        torch.ones(300)  # the highest point
        middle = len(live.events)
        torch.ones(50)
        end = len(live.events)
        torch.ones(400)
    assert live.peak() == 5 * MAP
    assert live.peak(stop=middle) == 4 * MAP
    assert live.peak(start=middle, stop=end) == MAP + 200  # with what lived before
    assert live.peak(start=middle) == 5 * MAP
    assert live.peak(without=[a], start=middle, stop=end) == 200
    assert live.peak(without=[a, torch.ones(3)]) == 4 * MAP


def test_what_is_left_out_does_not_count_from_its_making_on(mode):
    layer = nn.Linear(10, 10, bias=False)
    x = torch.ones(10, 10)
    with LiveBytes([x, layer.weight]) as live:
        layer(x).sum().backward()
    assert layer.weight.grad is not None
    everything, without = live.peak(), live.peak(without=[layer.weight, layer.weight.grad])
    # x, the weight and its gradient; the sum, and its gradient, of which the output's is a view
    assert everything == 3 * MAP + 8
    assert without == 2 * MAP + 4  # x, the output, and the sum


def test_a_graph_keeps_what_it_saved(mode):
    x = torch.ones(100, requires_grad=True)
    with LiveBytes([x]) as live:
        y = x.exp().exp().sum()
        kept = sum(sizes(live))
        del y
    assert kept == 3 * MAP + 4
    assert sum(sizes(live)) == MAP


def test_a_batch_norm_has_a_second_map_within_its_backward(mode):
    layer = nn.BatchNorm2d(4, affine=False)
    x = torch.ones(5, 4, 3, 3, requires_grad=True)
    with LiveBytes([x]) as live:
        y = layer(x)
        before = len(live.events)
        y.backward(torch.ones_like(y))
    gradient = live.number(x.grad)
    during = live.events[before:]
    within = [(n, size) for n, size in during if size == x.nbytes and n != gradient]
    # the gradient that it was given, and the map of its own, which is gone at once
    assert len(within) == 2
    assert (within[1][0], -x.nbytes) in during


def test_tensors_with_data_are_not_seen():
    with LiveBytes() as live:
        torch.ones(100) + 1
    assert live.events == []


def maps_of_backward(mode, kept):
    """How many maps it makes where two gradients meet; `kept` is given both, or is None."""
    x = torch.ones(100, requires_grad=True)
    y = x * 2
    branches = y.sin(), y.cos()
    for branch in branches if kept is not None else ():
        branch.grad_fn.register_hook(lambda inputs, _: kept.extend(inputs))
    z = branches[0] + branches[1]
    with LiveBytes([x, y, *branches, z]) as live:
        z.backward(torch.ones(100))
    return sizes(live).count(MAP)


def test_gradients_are_added_in_place_where_nobody_holds_them(mode):
    assert maps_of_backward(mode, []) == maps_of_backward(mode, None) + 1
