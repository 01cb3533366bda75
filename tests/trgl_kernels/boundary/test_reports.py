"""What a boundary reports, counts and refuses, and what it leaves as it is."""

import warnings

import pytest
import torch
from boundaries import MAP, Training, needs_extension

import trgl_kernels
from trgl_kernels.boundary import (
    BoundaryError,
    BoundaryWarning,
    Counters,
    ModuleBoundary,
    current,
    live_bytes,
    opened,
)

pytestmark = [
    needs_extension,
    pytest.mark.filterwarnings("ignore::trgl_kernels.boundary.BoundaryWarning"),
]


def test_small_tensors_stay_readable(training):
    kept = []
    training.step(lambda y, _: kept.extend([y[0] * 2, (y * 2)[:16].clone()]))
    assert kept[0].isfinite().all()
    assert kept[1].untyped_storage().nbytes() == 4096
    assert kept[1].isfinite().all()


def test_only_reported():
    training = Training(find="always", release=False)
    kept = []
    training.step(lambda y, _: kept.append(y * 2))
    assert kept[0].isfinite().all()
    (held,) = training.boundary.held
    assert (held.bytes, held.shape, held.dtype) == (MAP, (64, 64), "torch.float32")
    assert (held.op, held.released, held.refused) == ("aten::mul", False, None)


def test_what_is_refused_is_reported_and_stays(training):
    kept = []

    def export(y, _):
        t = y.detach() * 2
        kept.append((t, t.numpy()))

    training.step(export)
    t, array = kept[0]
    assert float(array.sum()) == pytest.approx(float(t.sum()))
    (held,) = training.boundary.held
    assert not held.released
    assert "NumPy" in held.refused


def test_it_is_said_once():
    training = Training(find="always")
    kept = []

    def hold(y, _):
        kept.append(y * 2)

    with pytest.warns(BoundaryWarning, match=r"module 3.*\[64, 64\] torch.float32 from aten::mul"):
        training.step(hold)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        training.step(hold)
    assert len(training.boundary.held) == 1


def test_crossing_a_view_copies_it():
    boundary = ModuleBoundary("slices", find="always")
    before = live_bytes()
    with boundary:
        y = boundary.cross(torch.randn(64, 64)[:, :32])
    assert live_bytes() - before == MAP // 2
    assert y.isfinite().all()
    x = torch.randn(64, 64)
    with boundary:
        same = boundary.cross(x[:, :32])  # the user's own storage: nothing to free
    assert same.data_ptr() == x.data_ptr()
    assert boundary.last.freed_by_force == 0


def test_the_counters():
    boundary = ModuleBoundary("counted", find="always")
    held = []

    def step():
        a = torch.zeros(1000)  # 4000
        b = torch.zeros(3000)  # 12000
        del a
        c = torch.zeros(2000)  # 8000
        held.append(c)
        return boundary.cross(b)

    with boundary:
        y = step()
    assert boundary.last == Counters(
        steps=1,
        allocated=24_000,
        peak=20_000,
        freed_by_reference_counting=4_000,
        freed_by_force=8_000,
        crossed=12_000,
    )
    with boundary:
        pass
    assert boundary.last == Counters(steps=1)
    assert boundary.total.steps == 2
    assert boundary.total.peak == 20_000
    del y


def test_poison(training):
    training.boundary.poison = True
    exported = []
    training.step(lambda y, _: exported.append(torch.from_dlpack(y.detach() * 2)))
    assert training.boundary.last.freed_by_force >= MAP


@pytest.mark.parametrize("what", ["cross", "keep"])
def test_outside_the_scope(what):
    boundary = ModuleBoundary("module 3")
    with pytest.raises(BoundaryError, match="inside the scope"):
        getattr(boundary, what)(torch.ones(3))
    with boundary, pytest.raises(BoundaryError, match="takes a tensor; received list"):
        getattr(boundary, what)([1.0])


def test_one_scope_at_a_time():
    boundary, other = ModuleBoundary("module 3"), ModuleBoundary("module 4")
    with boundary:
        with pytest.raises(BoundaryError, match="open already"), boundary:
            pass
        other.__enter__()
        with pytest.raises(BoundaryError, match="innermost first"):
            boundary.__exit__(None, None, None)
        other.__exit__(None, None, None)
        assert current() is boundary
    assert current() is None
    with pytest.raises(BoundaryError, match="find must be one of"):
        ModuleBoundary("module 3", find="sometimes")


def test_release_inside_a_scope():
    boundary = ModuleBoundary("module 3", find="always")
    before = torch.ones(2000)
    with boundary:
        mine, crossing = torch.ones(2000), boundary.cross(torch.ones(2000))
        kept = boundary.keep(torch.ones(2000))
        for refused, words in (
            (before, "existed before"),
            (crossing, "protected"),
            (kept, "protected"),
        ):
            with pytest.raises(BoundaryError, match=words):
                trgl_kernels.release(refused, reason="early")
        assert trgl_kernels.release(mine, reason="early") == 8000
    assert before.sum() == crossing.sum() == kept.sum() == 2000


def test_an_interrupt_while_it_opens_leaves_it_closed(monkeypatch):
    boundary = ModuleBoundary("module 3")
    push = opened.push

    def interrupted(one):
        push(one)
        raise KeyboardInterrupt

    monkeypatch.setattr(opened, "push", interrupted)
    with pytest.raises(KeyboardInterrupt), boundary:
        pass
    monkeypatch.undo()
    assert current() is None
    with boundary:
        assert boundary.cross(torch.ones(2)).sum() == 2
