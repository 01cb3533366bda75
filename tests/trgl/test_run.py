"""One run: what it writes, that it repeats, and that methods differ in nothing but their loss."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import few_digits, run_once, small, without_times

import trgl_kernels
from trgl import recipes, rundir
from trgl.data import ImageData
from trgl.metrics import EpochRecord, Evaluation
from trgl.pace import Progress
from trgl.prepare import Task, make_loaders, prepare
from trgl.recorded import metric_rows
from trgl.run import perform
from trgl.rundir import RunDirectory, read_metrics


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return few_digits(90)


def test_a_run_writes_what_it_did_and_measured(tmp_path: Path, digits: ImageData) -> None:
    told: list[Progress] = []
    task = Task(small(validation_size=10), "transport", 3, data="somewhere")
    with RunDirectory.create(tmp_path / "run") as directory:
        summary = perform(prepare(task, digits), directory, told.append)
    assert json.loads((tmp_path / "run" / rundir.SUMMARY).read_text()) == summary
    assert summary["state"] == "done"
    assert summary["images"] == {"train": 20, "validation": 10, "test": 90}
    assert summary["modules"] == 3
    assert summary["epochs_evaluated"] == 2

    rows = read_metrics(tmp_path / "run")
    assert [(row["epoch"], row["module"]) for row in rows] == [
        (epoch, module) for epoch in (1, 2, 3, 4) for module in (1, 2, 3)
    ]
    last = rows[-3:]
    assert [row["test_accuracy"] for row in last] == list(summary["accuracy"]["by_depth"].values())
    assert summary["accuracy"]["last_module_last_epoch"] == last[-1]["test_accuracy"]
    assert summary["accuracy"]["last_module_validation"] == last[-1]["validation_accuracy"]
    best = summary["accuracy"]["best_module_by_validation"]
    assert best["accuracy"] == last[best["module"] - 1]["test_accuracy"]
    assert last[best["module"] - 1]["validation_accuracy"] == max(
        row["validation_accuracy"] for row in last
    )
    assert summary["accuracy"]["optimistic_maximum_over_epochs_of_last_module"] == max(
        row["test_accuracy"] for row in rows if row["module"] == 3 and row["test_accuracy"]
    )
    assert summary["accuracy"]["optimistic_maximum_over_epochs_and_modules"] == max(
        row["test_accuracy"] for row in rows if row["test_accuracy"] is not None
    )
    assert rows[0]["test_accuracy"] is None
    assert all(row["transport_cost"] > 0 for row in rows)
    assert all(row["transport_weight"] == pytest.approx(1 / (2 * 0.05)) for row in rows)

    config = json.loads((tmp_path / "run" / rundir.CONFIG).read_text())
    assert config["seed"] == 3
    assert config["method"] == "transport"
    assert config["recipe"]["filters"] == 4
    assert config["sources"]["filters"] == "given"
    assert config["data"]["read_from"] == str(Path("somewhere").absolute())
    assert config["versions"]["torch"] == torch.__version__
    assert "engines" in config["engine"]
    epochs = [(step.epoch, step.epochs) for step in told if not step.evaluating]
    assert epochs == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert [step.epoch for step in told if step.evaluating] == [1, 3]  # and their evaluation
    assert {step.accuracy_on for step in told if step.accuracy is not None} == {"validation"}
    assert told[-1].accuracy == summary["accuracy"]["last_module_validation"]


def test_a_run_says_what_the_steps_of_each_module_held(tmp_path: Path, digits: ImageData) -> None:
    recipe = small(epochs=1, modules=4)
    parts = run_once(tmp_path / "parts", digits, recipe)["memory"]
    (whole,) = run_once(tmp_path / "whole", digits, recipe, "end-to-end")["memory"]
    assert [row["module"] for row in parts] == [1, 2, 3, 4]
    assert whole["module"] == 4
    assert all(row["steps"] == 1 for row in [*parts, whole])
    head, convolutions, norms = 2570, 2 * 4 * recipe.filters**2 * 9, (4 * 4 - 2) * recipe.filters
    assert whole["parameters"] == head + convolutions + norms  # the first block has no BN 1
    if not trgl_kernels.info()["boundary"]["release"]:
        assert all(row["peak_bytes"] is None for row in [*parts, whole])
        return
    map_bytes = 30 * recipe.filters * 8 * 8 * 4
    for row in parts:
        assert 2 * map_bytes < row["peak_bytes"] < 20 * map_bytes
        assert row["peak_bytes"] < whole["peak_bytes"] / 2


def test_pandas_reads_the_metrics(tmp_path: Path, digits: ImageData) -> None:
    pandas = pytest.importorskip("pandas")
    summary = run_once(tmp_path / "run", digits, small())
    frame = pandas.read_json(tmp_path / "run" / rundir.METRICS, lines=True)
    final = frame[frame.epoch == 4].set_index("module").test_accuracy
    assert final[3] == pytest.approx(summary["accuracy"]["last_module_last_epoch"])


def test_two_runs_of_one_seed_are_equal_to_the_last_bit(tmp_path: Path, digits: ImageData) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        torch.manual_seed(len(name))
        run_once(tmp_path / name, digits, small(), seed=seed)
        torch.rand(7)  # what happens to the global generator in between plays no part
    assert without_times(tmp_path / "a") == without_times(tmp_path / "b")
    assert without_times(tmp_path / "a") != without_times(tmp_path / "c")


@pytest.mark.parametrize("regime", ["parallel", "sequential"])
def test_a_run_with_kept_features_repeats_the_one_without(
    tmp_path: Path, digits: ImageData, regime: str
) -> None:
    recipe = small(regime=regime, crop_padding=0, drop_last=False, batch_size=8)
    for name, cache in (("a", "memory"), ("b", None)):
        with RunDirectory.create(tmp_path / name) as directory:
            perform(prepare(Task(recipe, "transport", 1, cache=cache), digits), directory)
    assert without_times(tmp_path / "a") == without_times(tmp_path / "b")


def test_methods_of_one_seed_share_images_weights_and_order(digits: ImageData) -> None:
    runs = [prepare(Task(small(), method, 5), digits) for method in recipes.METHODS]
    states = [run.network.state_dict() for run in runs]
    epochs = [[*run.loaders.train, *run.loaders.train] for run in runs]
    for state, epoch in zip(states[1:], epochs[1:], strict=True):
        assert state.keys() == states[0].keys()
        assert all(torch.equal(state[key], states[0][key]) for key in state)
        for (images, labels), (others, other_labels) in zip(epoch, epochs[0], strict=True):
            assert torch.equal(images, others)
            assert torch.equal(labels, other_labels)
    other = prepare(Task(small(), "vanilla", 6), digits)
    assert not torch.equal(next(iter(other.loaders.plain))[0], next(iter(runs[0].loaders.plain))[0])


def test_an_enormous_tau_is_vanilla_and_a_small_one_is_not(
    tmp_path: Path, digits: ImageData
) -> None:
    vanilla = run_once(tmp_path / "v", digits, small(), "vanilla")
    weak = run_once(tmp_path / "w", digits, small(tau=1e30), "transport")
    strong = run_once(tmp_path / "s", digits, small(tau=0.005), "transport")
    assert weak["loss"] == pytest.approx(vanilla["loss"], rel=1e-5)
    assert strong["loss"] != pytest.approx(vanilla["loss"], rel=1e-4)
    costs = {
        name: [row["transport_cost"] for row in read_metrics(tmp_path / name)][-1]
        for name in ("w", "s")
    }
    assert costs["s"] < costs["w"]
    assert [row["transport_cost"] for row in read_metrics(tmp_path / "v")] == [None] * 12


def test_end_to_end_has_one_classifier(tmp_path: Path, digits: ImageData) -> None:
    recipe = small(end_to_end_learning_rate=0.01, end_to_end_milestones=(2,))
    summary = run_once(tmp_path / "run", digits, recipe, "end-to-end")
    rows = read_metrics(tmp_path / "run")
    assert [row["module"] for row in rows] == [3, 3, 3, 3]
    assert [row["learning_rate"] for row in rows] == pytest.approx([0.01, 0.01, 0.002, 0.002])
    assert summary["accuracy"]["by_depth"] == {}
    assert summary["accuracy"]["best_module_by_validation"] is None
    assert 0 <= summary["accuracy"]["last_module_last_epoch"] <= 1


def test_a_divergence_is_kept_on_disk(tmp_path: Path, digits: ImageData) -> None:
    recipe = small(learning_rate=1e30)
    with (
        RunDirectory.create(tmp_path / "run") as directory,
        pytest.raises(RuntimeError, match="diverged"),
    ):
        perform(prepare(Task(recipe, "vanilla", 0), digits), directory)
    summary = json.loads((tmp_path / "run" / rundir.SUMMARY).read_text())
    assert summary["state"] == "failed"
    assert "diverged" in summary["reason"]


def test_an_interrupted_run_keeps_what_it_measured(tmp_path: Path, digits: ImageData) -> None:
    def stop(progress: Progress) -> None:
        if progress.epoch == 2:
            raise KeyboardInterrupt

    with (
        RunDirectory.create(tmp_path / "run") as directory,
        pytest.raises(KeyboardInterrupt),
    ):
        perform(prepare(Task(small(), "vanilla", 0), digits), directory, stop)
    assert {row["epoch"] for row in read_metrics(tmp_path / "run")} == {1, 2}
    summary = json.loads((tmp_path / "run" / rundir.SUMMARY).read_text())
    assert (summary["state"], summary["reason"]) == ("interrupted", "KeyboardInterrupt")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_size": 5}, "--train-size 5.*each class"),
        ({"train_size": 1001}, "--train-size 1001.*1000 there"),
        ({"train_size": 30, "validation_size": 25}, "both sides"),
        ({"network": "resnet18", "encoder": "stem",
          "modules": 9, "shared_head": False}, "8 blocks"),
        ({"mean": (0.5, 0.5), "std": (0.5, 0.5)}, "each of the 1 channels"),
    ],
)  # fmt: skip
def test_recipes_that_do_not_fit_the_data(
    digits: ImageData, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        prepare(Task(small(**changes), "vanilla", 0), digits)


def test_validation_images_are_not_trained_on(digits: ImageData) -> None:
    loaders = make_loaders(small(validation_size=10), digits, 0)
    assert loaders.validation is not None
    train = {image.numpy().tobytes() for images, _ in loaders.plain for image in images}
    held = {image.numpy().tobytes() for images, _ in loaders.validation for image in images}
    assert (len(train), len(held)) == (20, 10)
    assert not train & held
    assert loaders.validation.mean == loaders.train.mean == loaders.test.mean


def test_threads_are_given_back(tmp_path: Path, digits: ImageData) -> None:
    before = torch.get_num_threads()
    run_once(tmp_path / "run", digits, small(epochs=1))
    assert torch.get_num_threads() == before


def test_rows_hold_every_module_that_was_seen() -> None:
    evaluation = Evaluation((0, 1, 2), (0.1, 0.2, 0.3), (1.0, 2.0, 3.0), 10)
    record = EpochRecord(7, 2, (1,), {1: 0.5}, {1: 0.9}, {1: 4.0}, {1: 10.0}, {1: 0.1}, evaluation)
    rows = metric_rows(record)
    assert [row["module"] for row in rows] == [0, 1, 2]
    assert [row["train_loss"] for row in rows] == [None, 0.5, None]
    assert [row["test_accuracy"] for row in rows] == [0.1, 0.2, 0.3]
    assert {row["lap"] for row in rows} == {2}
    assert rows[1]["validation_loss"] is None
