"""Exceptions, retained gradients and checkpoints: nothing outlives the scope that should not."""

import gc

import pytest
import torch
from boundaries import MAP, Training, needs_extension, raises_the_name, small_bytes
from torch import nn
from torch.utils.checkpoint import checkpoint

from trgl_kernels.boundary import BoundaryError, ModuleBoundary, current, live_bytes, release

pytestmark = [
    needs_extension,
    pytest.mark.filterwarnings("ignore::trgl_kernels.boundary.BoundaryWarning"),
]


class Fails(torch.autograd.Function):
    """Its backward raises."""

    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, gradient):
        raise KeyError("the user's own")


@pytest.mark.parametrize("where", ["forward", "backward", "after"])
def test_an_exception_in_the_middle(training, where):
    held = []

    def fail(_, inputs):
        deep = inputs[0].exp()
        held.append(deep)
        raise KeyError("the user's own")

    def through(_, __, output):
        deep = Fails.apply(output)
        held.append(deep)
        return deep

    layer, hook = training.module.layers[2], None
    if where == "forward":
        hook = layer.register_forward_pre_hook(fail)
    elif where == "backward":
        hook = layer.register_forward_hook(through)
    before = live_bytes()
    with pytest.raises(KeyError, match="the user's own") as raised:
        training.step((lambda y, _: fail(None, [y])) if where == "after" else None)
    raises_the_name(held[0].sum)  # which the traceback holds, with its frames and their tensors
    frames = [tensor for entry in raised.traceback[1:] for tensor in tensors_of(entry.frame)]
    gradients = sum(p.grad.nbytes for p in training.module.parameters() if p.grad is not None)
    assert (gradients > 0) == (where == "backward")
    assert live_bytes() - before == gradients + small_bytes([*held, *frames], training.owned())
    if hook is not None:
        hook.remove()
    del raised, frames
    held.clear()
    training.module.zero_grad()
    gc.collect()  # frames of torch's own functions that refer to themselves
    y = training.step()
    assert live_bytes() - before == MAP
    assert training.boundary.last.steps == 1
    del y


def tensors_of(frame):
    """In its local variables, alone and in tuples."""
    values = [value for value in frame.f_locals.values() if isinstance(value, tuple | torch.Tensor)]
    every = [t for value in values for t in (value if isinstance(value, tuple) else (value,))]
    return [t for t in every if isinstance(t, torch.Tensor)]


def test_an_exception_that_the_outer_boundary_outlives(training):
    outer = ModuleBoundary("outer", find=training.boundary.find)
    held, errors = [], []

    def fail(y, _):
        held.append(y.detach() * 2)
        raise KeyError("the user's own")

    def around():
        mine = training.x * 2
        try:
            training.step(fail)
        except KeyError as error:
            errors.append(error)
        raises_the_name(held[0].sum)
        assert mine.isfinite().all()
        assert current() is outer
        return outer.cross(training.step() + mine)

    before = live_bytes()
    with outer:
        y = around()
    frames = errors[0].__traceback__.tb_next.tb_next.tb_frame
    assert live_bytes() - before == MAP + small_bytes(tensors_of(frames), training.owned())
    assert y.isfinite().all()
    assert current() is None
    errors.clear()


def left_of_retained(find, before):
    """Bytes left over by three steps in which a hook keeps features and their gradients."""
    training, kept, left = Training(find=find), [], []

    def retain(_, __, output):
        output.retain_grad()
        kept.append(output)

    for _ in range(before):
        training.step()
    training.module.layers[0].register_forward_hook(retain)
    live = live_bytes()
    for _ in range(3):
        y = training.step()
        left.append(live_bytes() - live - MAP)
        raises_the_name(kept[-1].sum)
        if not any(left):
            raises_the_name(kept[-1].grad.sum)
        del y
    return left


@pytest.mark.parametrize("find", ["always", "sampled"])
def test_gradients_of_features_that_are_retained(find):
    assert left_of_retained(find, 0) == [0, 0, 0]


def test_gradients_that_are_retained_in_a_step_that_is_not_watched():
    assert left_of_retained("sampled", 10) == [0, 0, 0]


@pytest.mark.parametrize("reentrant", [True, False])
def test_what_hooks_keep_of_checkpointed_segments(training, reentrant):
    kept = []
    layers = training.module.layers
    segment = nn.Sequential(*layers[:3])
    segment[0].register_forward_hook(lambda _m, _i, output: kept.append(output))
    training.module.forward = lambda x: layers[3](checkpoint(segment, x, use_reentrant=reentrant))
    training.x.requires_grad_()
    before = live_bytes()
    for _ in range(3):
        y = training.step()
        training.x.grad = None
        # the reentrant kind runs the segment on a leaf of its own, whose gradient is protected as
        # that of any leaf, and which the graph behind the output holds
        leaf = MAP if reentrant else 0
        assert live_bytes() - before == MAP + leaf + small_bytes(kept, training.owned())
        assert len(kept) == 2  # in forward and again in backward
        for output in kept:
            raises_the_name(output.sum)
        kept.clear()
        del y, output
        assert live_bytes() == before


@pytest.mark.parametrize(("step", "op"), [(126, ""), (127, "aten::mul")])
def test_one_step_of_so_many_is_watched(step, op):
    training, kept = Training(), []
    for _ in range(step):
        training.step()
    y = training.step(lambda y, _: kept.append(y * 2))
    # found through its operator, or through Python, which does not know it
    assert [held.op for held in training.boundary.held] == [op]
    raises_the_name(kept[0].sum)
    assert y.isfinite().all()


def test_a_view_without_gradients_whose_parameter_changed(training):
    with torch.no_grad():
        logged = training.module.layers[0].weight[0]
    kept = []
    for _ in range(4):
        training.step(lambda y, _: kept.append(y * 2))  # after the parameter was updated
        raises_the_name(kept[-1].sum)
    with pytest.raises(RuntimeError, match="no_grad mode"):
        logged.is_leaf  # noqa: B018 (PyTorch refuses to say it)
    unused = torch.ones(64, 64)
    alias = unused.detach()  # a second holder, so that the parameters of the process are searched
    assert release(unused, reason="test") == MAP
    with pytest.raises(RuntimeError, match="test"):
        alias.sum()
    with pytest.raises(BoundaryError, match="parameters"):
        release(logged, reason="test")
