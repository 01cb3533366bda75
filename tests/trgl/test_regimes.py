import pytest

from trgl.regimes import Phase, schedule


def order(phases):
    return [(phase.lap, *phase.active) for phase in phases]


def test_parallel_trains_all_modules_until_their_epochs_are_over():
    assert order(schedule("parallel", {0: 2, 1: 2})) == [(1, 0, 1)] * 2
    unequal = schedule("parallel", {1: 1, 2: 3, 3: 2})
    assert order(unequal) == [(1, 1, 2, 3), (1, 2, 3), (1, 2)]


def test_sequential_trains_one_after_the_other():
    phases = schedule("sequential", {0: 1, 1: 2, 2: 3})
    assert order(phases) == [(1, 0), (1, 1), (1, 1), (1, 2), (1, 2), (1, 2)]


def test_every_lap_has_its_share_of_the_epochs():
    phases = schedule("multi-lap", {1: 2, 2: 4}, laps=2)
    lap = [(1,), (2,), (2,)]
    assert order(phases) == [(1, *k) for k in lap] + [(2, *k) for k in lap]


def test_one_lap_is_sequential():
    epochs = {1: 2, 2: 3}
    assert schedule("multi-lap", epochs, laps=1) == schedule("sequential", epochs)


def test_end_to_end_is_one_module():
    assert schedule("end-to-end", {4: 3}) == [Phase((4,))] * 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("async", {1: 1}), "parallel, sequential, multi-lap, end-to-end"),
        (("multi-lap", {1: 4, 2: 6}, 4), "module 2 has 6 epochs.*Use 8 epochs"),
        (("multi-lap", {1: 4}, 0), "at least 1"),
        (("multi-lap", {1: 4}, 2.0), "whole number"),
        (("sequential", {1: 4}, 2), "regime='multi-lap'"),
    ],
)
def test_orders_that_do_not_exist_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        schedule(*arguments)
