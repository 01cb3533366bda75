"""In which steps a boundary finds, decided from the number of steps and from alarms."""

import pytest

from trgl_kernels.boundary.schedule import FIRST, SAMPLE, WATCH, Schedule


def found(schedule, steps, alarms=None):
    """The steps that find; `alarms` maps steps to what `alarm` is told after them."""
    numbers = []
    for _ in range(steps):
        now = schedule.steps
        if schedule.finds():
            numbers.append(now)
        if alarms and now in alarms:
            schedule.alarm(*alarms[now])
        schedule.steps += 1
    return numbers


def test_without_alarms_the_first_steps_and_one_of_so_many():
    assert found(Schedule(), 3 * SAMPLE) == [0, 1, 127, 255, 383]
    assert (FIRST, SAMPLE, WATCH) == (2, 128, 4)


@pytest.mark.parametrize("watched", [True, False])
def test_a_true_alarm_watches_the_next_steps(watched):
    schedule = Schedule()
    assert found(schedule, 40, {20: (True, watched)}) == [0, 1, 21, 22, 23, 24]
    assert schedule.hears()


def test_true_alarms_go_on_as_long_as_something_is_held():
    alarms = dict.fromkeys(range(20, 31), (True, True))
    assert found(Schedule(), 60, alarms) == [0, 1, *range(21, 35)]


def test_an_alarm_of_a_step_that_was_not_watched_watches_the_next_one():
    schedule = Schedule()
    assert found(schedule, 40, {20: (False, False)}) == [0, 1, 21]
    assert schedule.hears()


def test_a_false_alarm_ends_the_watch_and_is_quiet_for_longer_each_time():
    schedule, pauses = Schedule(), []
    schedule.steps = 1000
    schedule.alarm(True, True)
    for _ in range(9):
        schedule.alarm(False, True)
        schedule.steps += 1
        begun = schedule.steps
        while not schedule.hears():
            schedule.steps += 1
        pauses.append(schedule.steps - begun)
    assert pauses == [2, 4, 8, 16, 32, 64, 128, 128, 128]
    schedule.alarm(True, True)  # ends the row of false ones
    schedule.alarm(False, True)
    schedule.steps += 1
    for _ in range(2):
        assert not schedule.hears()
        schedule.steps += 1
    assert schedule.hears()


def test_quiet_steps_are_sampled_all_the_same():
    alarms = dict.fromkeys((0, 1), (False, True))
    assert found(Schedule(), 2 * SAMPLE, alarms) == [0, 1, 127, 255]


def test_a_false_alarm_does_not_end_the_first_steps():
    assert found(Schedule(), 20, {0: (False, True)}) == [0, 1]
