import json
import math

import pytest

from trgl.metrics import (
    EpochRecord,
    Evaluation,
    History,
    mean_interval,
    paired_interval,
    student_t,
)


def evaluation(*accuracy, modules=None):
    modules = tuple(range(1, len(accuracy) + 1)) if modules is None else modules
    return Evaluation(modules, accuracy, tuple(1 - a for a in accuracy), 10)


def history(tests, validations=None):
    validations = [None] * len(tests) if validations is None else validations
    return History(
        tuple(
            EpochRecord(epoch, 1, (1, 2), {1: 0.5, 2: 0.4}, {1: 0.5, 2: 0.5}, test=t, validation=v)
            for epoch, (t, v) in enumerate(zip(tests, validations, strict=True), 1)
        )
    )


# printed tables of Student's distribution
@pytest.mark.parametrize(
    ("freedom", "confidence", "expected"),
    [
        (1, 0.95, 12.706),
        (2, 0.95, 4.303),
        (3, 0.95, 3.182),
        (4, 0.95, 2.776),
        (4, 0.90, 2.132),
        (4, 0.99, 4.604),
        (9, 0.95, 2.262),
        (10, 0.95, 2.228),
        (30, 0.95, 2.042),
        (120, 0.95, 1.980),
    ],
)
def test_quantiles_of_student(freedom, confidence, expected):
    assert student_t(confidence, freedom) == pytest.approx(expected, abs=6e-4)


def test_the_interval_of_five_seeds():
    values = [88.0, 89.0, 90.0, 91.0, 92.0]
    interval = mean_interval(values)
    assert interval.mean == 90.0
    assert interval.half_width == pytest.approx(2.7764 * math.sqrt(2.5) / math.sqrt(5), rel=1e-4)
    assert (interval.low + interval.high) / 2 == pytest.approx(90.0)
    assert interval.count == 5
    wider = mean_interval(values, confidence=0.99)
    assert wider.half_width > interval.half_width
    shifted = mean_interval([2 * v + 1 for v in values])
    assert shifted.mean == 181.0
    assert shifted.half_width == pytest.approx(2 * interval.half_width)


def test_a_single_seed_has_no_spread_to_speak_of():
    interval = mean_interval([3.0])
    assert interval.mean == 3.0
    assert math.isnan(interval.half_width)


def test_paired_differences_remove_what_the_seeds_share():
    a, b = [80.0, 90.0, 70.0], [79.0, 88.0, 69.5]
    interval = paired_interval(a, b)
    assert interval.mean == pytest.approx(3.5 / 3)
    assert interval == mean_interval([1.0, 2.0, 0.5])
    assert interval.half_width < mean_interval(a).half_width
    with pytest.raises(ValueError, match="same seeds"):
        paired_interval(a, b[:2])


@pytest.mark.parametrize(("values", "confidence"), [([], 0.95), ([1.0], 0.0), ([1.0], 1.0)])
def test_intervals_refuse_nothing_and_certainty(values, confidence):
    with pytest.raises(ValueError, match=r"interval needs|confidence"):
        mean_interval(values, confidence)


def test_the_figures_of_a_run_are_what_their_names_say():
    run = history(
        [evaluation(0.9, 0.5, 0.6), None, evaluation(0.7, 0.8, 0.75)],
        [evaluation(0.9, 0.1, 0.1), None, evaluation(0.6, 0.5, 0.65)],
    )
    assert run.final.accuracy == (0.7, 0.8, 0.75)
    assert run.by_depth() == {1: 0.7, 2: 0.8, 3: 0.75}
    assert run.last_module() == 0.75
    assert run.best_module() == (3, 0.75)  # not module 2, which only the test set prefers
    assert run.optimistic_maximum() == 0.9
    last = [record.test.accuracy[-1] for record in run.records if record.test is not None]
    assert run.optimistic_maximum(last=True) == max(last) < 0.9
    assert run.final.accuracy_of(2) == 0.8


def test_an_encoder_and_ties_do_not_win():
    test = evaluation(0.9, 0.5, 0.6, modules=(0, 1, 2))
    run = history([test], [evaluation(0.99, 0.7, 0.7, modules=(0, 1, 2))])
    assert run.best_module() == (1, 0.5)
    assert run.optimistic_maximum() == 0.6
    assert run.by_depth() == {0: 0.9, 1: 0.5, 2: 0.6}


def test_figures_without_their_data_set_are_refused():
    with pytest.raises(ValueError, match="Pass a test loader"):
        history([None]).last_module()
    with pytest.raises(ValueError, match="Pass a validation loader"):
        history([evaluation(0.5)]).best_module()
    with pytest.raises(ValueError, match="Pass a test loader"):
        History(()).optimistic_maximum()


def test_records_are_json():
    written = json.loads(json.dumps(history([evaluation(0.5, 0.6)]).as_dict()))
    assert written["records"][0]["test"]["accuracy"] == [0.5, 0.6]
    assert written["records"][0]["train_loss"] == {"1": 0.5, "2": 0.4}
