import dataclasses

import numpy as np
import pytest
import torch

from trgl import Multipliers, Transport


def scalar(value):
    return torch.tensor(value, requires_grad=True)


def test_one_tau_for_all_or_one_per_module():
    assert Transport(0.5).taus(3) == (0.5, 0.5, 0.5)
    assert Transport([1, 2.5]).taus(2) == (1.0, 2.5)
    with pytest.raises(ValueError, match="one value per module, 3, but got 2"):
        Transport([1, 2]).taus(3)


@pytest.mark.parametrize(
    ("modules", "expected"), [(1, (1,)), (2, (0.5, 1)), (3, (0.5, 1, 1)), (4, (0.5, 0.5, 1, 1))]
)
def test_tau_doubles_after_the_first_half(modules, expected):
    assert Transport(0.5, double=True).taus(modules) == expected


def test_the_objective_is_criterion_plus_cost_over_two_tau():
    weights = Transport([0.25, 4.0]).start(2)
    criterion, cost = scalar(3.0), scalar(5.0)
    objective = weights.objective(1, criterion, cost)
    objective.backward()
    assert objective.item() == 3.0 + 5.0 / 0.5
    assert (criterion.grad.item(), cost.grad.item()) == (1.0, 2.0)
    assert weights.objective(2, criterion, cost).item() == 3.0 + 5.0 / 8.0
    assert weights.current() == [2.0, 0.125]
    weights.load_state_dict(weights.state_dict())
    assert weights.current() == [2.0, 0.125]


@pytest.mark.parametrize("form", ["normalized", "printed"])
def test_multipliers_grow_by_the_criterion_every_s_iterations_before_they_are_used(form):
    weights = Multipliers(initial=2.0, growth=0.5, every=3, form=form).start(2)
    value = 2.0
    for iteration in range(1, 11):  # i of appendix D
        criterion, cost = 1.0 + iteration, 4.0
        if iteration > 1 and (iteration - 1) % 3 == 0:
            value += 0.5 * criterion
        loss, c = scalar(criterion), scalar(cost)
        objective = weights.objective(1, loss, c)
        objective.backward()
        expected = (1.0, 1 / value) if form == "normalized" else (value, 1.0)
        assert objective.item() == pytest.approx(expected[0] * criterion + expected[1] * cost)
        # the growth itself carries no gradient
        assert (loss.grad.item(), c.grad.item()) == pytest.approx(expected)
    assert weights.current() == pytest.approx([value, 2.0])  # per module


def test_multipliers_count_optimizer_steps():
    weights = Multipliers(initial=1.0, growth=1.0, every=1).start(1)
    for first in (True, False, True, False):
        weights.objective(1, torch.tensor(5.0), torch.tensor(1.0), first)
    assert weights.current() == [6.0]  # once, at the second step's first batch


def test_the_multipliers_are_training_state():
    rule = Multipliers(initial=1.0, growth=1.0, every=2)
    weights, resumed = rule.start(2), rule.start(2)
    for _ in range(5):
        weights.objective(2, torch.tensor(3.0), torch.tensor(1.0))
    state = weights.state_dict()
    resumed.load_state_dict(state)
    for _ in range(3):
        a = weights.objective(2, torch.tensor(3.0), torch.tensor(1.0))
        b = resumed.objective(2, torch.tensor(3.0), torch.tensor(1.0))
        assert torch.equal(a, b)
    assert resumed.current() == weights.current() == [1.0, 10.0]
    with pytest.raises(ValueError, match="Resume with the same split"):
        rule.start(3).load_state_dict(state)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Transport(0), "positive finite number, but got 0"),
        (lambda: Transport(-1.0), "transport=None"),
        (lambda: Transport(float("nan")), "nan"),
        (lambda: Transport(float("inf")), "inf"),
        (lambda: Transport("0.5"), "'0.5'"),
        (lambda: Transport([0.5, 0.0]), "got 0.0"),
        (lambda: Transport([0.5, 1.0], double=True), "needs a single tau"),
        (lambda: Transport(reduction="none"), "'mean'"),
        (lambda: Transport(p=0.5), "at least 1"),
        (lambda: Multipliers(initial=0), "initial"),
        (lambda: Multipliers(growth=-1), "growth"),
        (lambda: Multipliers(every=0), "every"),
        (lambda: Multipliers(every=1.5), "every"),
        (lambda: Multipliers(form="inverse"), "'printed'"),
        (lambda: Multipliers(reduction="max"), "'sum'"),
    ],
)
def test_values_out_of_range_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_both_are_frozen_values():
    assert Transport([1.0, 2.0]) == Transport((1.0, 2.0))
    assert hash(Transport([1.0, 2.0])) == hash(Transport((1.0, 2.0)))
    with pytest.raises(dataclasses.FrozenInstanceError):
        Transport().tau = 1.0


def test_numbers_of_numpy_are_numbers_and_truth_values_are_not():
    assert Transport(np.float32(0.5), p=np.float64(2)).taus(2) == (0.5, 0.5)
    assert Transport([np.float32(0.5), np.int64(2)]).taus(2) == (0.5, 2.0)
    assert Multipliers(initial=np.float32(2), growth=np.float32(0)).start(1).current() == [2.0]
    for wrong in (
        lambda: Transport(True),
        lambda: Transport([1.0, True]),
        lambda: Transport(np.True_),
        lambda: Transport(p=True),
        lambda: Multipliers(initial=True),
        lambda: Multipliers(growth=True),
        lambda: Multipliers(every=True),
    ):
        with pytest.raises(ValueError, match=r"but got .*True"):
            wrong()
