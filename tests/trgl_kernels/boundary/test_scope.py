"""Whoever holds on to what a module's step made, it is gone when the scope closes."""

import gc
import threading

import pytest
import torch
from boundaries import MAP, Training, needs_extension, raises_the_name, small_bytes, train

from trgl_kernels.boundary import ModuleBoundary, live_bytes

pytestmark = [
    needs_extension,
    pytest.mark.filterwarnings("ignore::trgl_kernels.boundary.BoundaryWarning"),
]


def test_nothing_is_left_but_what_crosses(training):
    before = live_bytes()
    for _ in range(5):
        y = training.step()
        assert live_bytes() - before == MAP
        assert training.boundary.held == ()
        assert training.boundary.last.freed_by_force == 0
        assert training.boundary.last.crossed == MAP
        assert y.is_leaf
        assert not y.requires_grad
        y.sum()
        del y
        assert live_bytes() == before


def test_hooks_that_keep_outputs(training):
    kept = []
    for layer in training.module.layers:
        layer.register_forward_hook(lambda _m, _i, output: kept.append(output))
    before = live_bytes()
    for _ in range(4):
        y = training.step()
        assert live_bytes() - before == MAP
        raises_the_name(lambda: kept[0] + 1)
        raises_the_name(lambda: kept[1][0].sum())
        raises_the_name(lambda: repr(kept[2]))
        assert torch.equal(kept[3], y)  # the same storage as what crosses
        assert len(training.boundary.held) == 3
        assert training.boundary.last.freed_by_force >= 3 * MAP
        kept.clear()
        del y


def test_a_list_of_residues(training):
    residues = []
    before = live_bytes()
    for _ in range(4):
        y = training.step(lambda y, _: residues.append(y - y.mean()))
        assert live_bytes() - before == MAP
        del y
    assert len(residues) == 4
    for residue in residues:
        raises_the_name(residue.tolist)


def test_a_logged_loss_with_its_graph(training):
    losses = []
    before = live_bytes()

    def log(y, _):
        losses.append((training.module(training.x) ** 2).mean())

    for _ in range(4):
        y = training.step(log)
        # the losses, and of a graph that was found through its tensors the statistics of the BN
        small = small_bytes(losses, training.owned())
        assert small in (4 * len(losses), 4 * len(losses) + 2 * 64 * 4 * len(losses))
        assert live_bytes() - before == MAP + small
        del y
    for loss in losses:
        assert loss.isfinite()  # 4 bytes: a log survives
        with pytest.raises(RuntimeError):
            loss.backward()


def test_retain_graph(training):
    losses = []

    def retain(_, __):
        loss = training.module(training.x).square().mean()
        loss.backward(retain_graph=True)
        training.optimizer.zero_grad()
        losses.append(loss)

    training.step()
    before = live_bytes()
    y = training.step(retain)
    assert live_bytes() - before == MAP + small_bytes(losses, training.owned())
    with pytest.raises(RuntimeError):
        losses[0].backward()
    del y


def test_views_and_in_place_edits(training):
    kept = []

    def hold(y, _):
        doubled = y.detach() * 2
        doubled[3:5].zero_()
        kept.append(doubled[3:5])
        kept.append((y.detach() + 1).mul_(2).t()[::2])

    before = live_bytes()
    y = training.step(hold)
    assert live_bytes() - before == MAP
    for view in kept:
        raises_the_name(view.sum)
    del y


def test_tensors_in_reference_cycles(training):
    class Cycle:
        pass

    def hold(y, _):
        cycle = Cycle()
        cycle.itself, cycle.map = cycle, y.detach() * 2

    gc.disable()
    try:
        before = live_bytes()
        y = training.step(hold)
        assert live_bytes() - before == MAP
        assert training.boundary.last.freed_by_force >= MAP
    finally:
        gc.enable()
    del y


def test_nested_boundaries(training):
    outer = ModuleBoundary("outer", find=training.boundary.find)
    kept = []

    def hold(y, _):
        kept.append(y.detach() * 2)

    def around():
        mine = torch.randn(64, 64)
        inside = training.step(hold)
        raises_the_name(kept[-1].sum)
        assert mine.isfinite().all()  # it existed before the inner scope
        assert inside.isfinite().all()
        kept.append(mine)
        return outer.cross(inside * 2)

    before = live_bytes()
    with outer:
        y = around()
    assert live_bytes() - before == MAP
    with pytest.raises(RuntimeError, match="boundary 'outer'"):
        kept[-1].sum()
    assert outer.last.allocated > training.boundary.last.allocated
    train(training.module, training.optimizer, y)


def test_what_an_inner_boundary_keeps_outlives_the_outer():
    inner, outer = (ModuleBoundary(name, find="always") for name in ("inner", "outer"))
    with outer:
        with inner:
            kept = inner.keep(torch.ones(64, 64))
            crossing = inner.cross(torch.ones(64, 64))
        assert crossing.sum() == kept.sum()
    assert kept.sum() == 64 * 64
    with pytest.raises(RuntimeError, match="boundary 'outer'"):
        crossing.sum()


def test_two_threads(training):
    others, errors = Training(find=training.boundary.find), []
    barrier = threading.Barrier(2)
    logs = {id(training): [], id(others): []}

    def work(mine):
        try:
            for _ in range(30):
                barrier.wait(60)
                y = mine.step(lambda y, _: logs[id(mine)].append(y.exp()))
                assert mine.boundary.last.crossed == MAP
                barrier.wait(60)
                # the counter is the process's: both have closed, and neither has begun again
                assert live_bytes() - before == 2 * MAP
                barrier.wait(60)
                raises_the_name(logs[id(mine)][-1].sum)
                assert y.isfinite().all()
                del y
        except BaseException as error:
            errors.append(error)
            barrier.abort()

    before = live_bytes()
    threads = [threading.Thread(target=work, args=(mine,)) for mine in (training, others)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert live_bytes() == before
    for mine in (training, others):
        for t in logs[id(mine)]:
            raises_the_name(t.sum)
