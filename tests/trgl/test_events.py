"""Event files for TensorBoard: the rows of metrics.jsonl, each point once, whatever happened."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import pytest
from small_runs import few_digits, small

from trgl import events, rundir
from trgl.cli import main
from trgl.data import ImageData
from trgl.journal import Journal
from trgl.metrics import EpochRecord, Evaluation
from trgl.prepare import Task, prepare
from trgl.recorded import metric_rows
from trgl.restore import read_config
from trgl.run import perform
from trgl.rundir import RunDirectory, read_metrics
from trgl.trainer import Stopped

SIZE = "--modules 3 --filters 4 --train-size 30 --epochs 4 --evaluate-every 2"


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return few_digits(90)


@pytest.fixture
def installed() -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")


def points(path: Path) -> dict[str, list[tuple[int, float]]]:
    """Step and value of every point that all event files together have, by tag."""
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event

    found: dict[str, list[tuple[int, float]]] = {}
    for file in sorted(path.glob(rundir.EVENTS)):
        for raw in RawEventFileLoader(str(file)).Load():
            event = Event.FromString(raw)
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def expected(path: Path) -> dict[str, list[tuple[int, float]]]:
    """The same from metrics.jsonl, by another way."""
    found: dict[str, list[tuple[int, float]]] = {}
    once = {"lap", "seconds", "images_per_second", "memory_bytes"}
    for row in read_metrics(path):
        for name, value in row.items():
            tag = f"run/{name}" if name in once else f"{name}/module_{row['module']}"
            if name in ("epoch", "module") or value is None:
                continue
            before = found.setdefault(tag, [])
            if row["epoch"] not in dict(before):  # what belongs to the run stands in every row
                before.append((row["epoch"], pytest.approx(value, rel=1e-6)))
    return found


@pytest.mark.parametrize(
    "changes", [{}, {"weighting": "multipliers", "regime": "sequential", "validation_size": 10}]
)
@pytest.mark.usefixtures("installed")
def test_the_event_file_holds_the_rows_of_the_metrics(
    tmp_path: Path, digits: ImageData, changes: dict[str, Any]
) -> None:
    task = Task(small(**changes), "transport", 3, tensorboard=True)
    with RunDirectory.create(tmp_path / "run") as directory:
        perform(prepare(task, digits), directory)
    found = points(tmp_path / "run")
    assert found == expected(tmp_path / "run")
    names = {tag.partition("/")[0] for tag in found}
    assert {"train_loss", "test_accuracy", "transport_cost", "transport_weight", "run"} <= names
    assert {tag for tag in found if tag.startswith("learning_rate/")} == {
        f"learning_rate/module_{k}" for k in (1, 2, 3)
    }
    assert len(list((tmp_path / "run").glob(rundir.EVENTS))) == 1
    rates = [value for _, value in found["run/images_per_second"]]
    times = [value for _, value in found["run/seconds"]]
    images = 30 - changes.get("validation_size", 0)
    assert [a * b for a, b in zip(rates, times, strict=True)] == pytest.approx(
        [images] * len(rates)
    )


def test_without_the_option_there_is_none(tmp_path: Path, digits: ImageData) -> None:
    with RunDirectory.create(tmp_path / "run") as directory:
        perform(prepare(Task(small(epochs=1), "vanilla", 0), digits), directory)
    assert not list((tmp_path / "run").glob(rundir.EVENTS))
    assert read_config(tmp_path / "run")["tensorboard"] is False


@pytest.mark.usefixtures("installed")
def test_a_run_that_goes_on_shows_every_epoch_once(
    tmp_path: Path, digits: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = Task(small(), "transport", 3, save_every="1", tensorboard=True)
    path = tmp_path / "run"

    def train(resume: bool, until: int) -> None:
        prepared = prepare(task, digits)
        add = Journal.add

        def stopping(journal: Journal, record: EpochRecord) -> None:
            add(journal, record)
            if record.epoch == until:
                prepared.trainer.stop()

        monkeypatch.setattr(Journal, "add", stopping)
        with RunDirectory.open(path) if resume else RunDirectory.create(path) as directory:
            perform(prepared, directory, resume=resume)
        monkeypatch.setattr(Journal, "add", add)

    with pytest.raises(Stopped):
        train(resume=False, until=2)
    assert {epoch for epoch, _ in points(path)["train_loss/module_1"]} == {1, 2}
    (file,) = path.glob(rundir.EVENTS)
    content = file.read_bytes()
    file.write_bytes(content[:-7])  # it was killed while it wrote
    (path / (file.name + ".older")).write_bytes(content)  # or between two files
    train(resume=True, until=9)
    assert points(path) == expected(path)
    assert [epoch for epoch, _ in points(path)["train_loss/module_1"]] == [1, 2, 3, 4]


@pytest.mark.usefixtures("installed")
def test_a_disk_that_is_full_for_a_while_costs_no_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def record(epoch: int) -> EpochRecord:
        test = Evaluation((1, 2), (0.1 * epoch, 0.2), (1.0, 2.0), 10)
        loss = {1: 1 / epoch, 2: float("nan")}
        return EpochRecord(epoch, 1, (1, 2), loss, {1: 0.9, 2: 0.8}, test=test, seconds=1.0)

    told: list[str] = []
    with RunDirectory.create(tmp_path / "run") as directory:
        journal = Journal(directory, True, told.append)
        journal.begin([], again=False)
        journal.add(record(1))

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            journal.add(record(2))
        assert len(told) == 2
        assert "metrics of the last epoch are not written yet" in told[0]
        assert "TensorBoard of the last epoch are not written yet" in told[1]
        journal.add(record(3))
        journal.finish()
        journal.close()
    assert [row["epoch"] for row in read_metrics(tmp_path / "run")] == [1, 1, 2, 2, 3, 3]
    found = points(tmp_path / "run")
    assert [epoch for epoch, _ in found["test_accuracy/module_1"]] == [1, 2, 3]
    assert found["train_loss/module_1"] == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3))]
    assert len(told) == 2


@pytest.mark.usefixtures("installed")
def test_tensorboard_itself_reads_a_run_that_went_on(tmp_path: Path) -> None:
    """With a reader that had seen the old file, as that of a TensorBoard that is open."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def rows(epoch: int) -> list[dict[str, Any]]:
        return metric_rows(EpochRecord(epoch, 1, (1,), {1: 1 / epoch}, {1: 0.5}, seconds=60.0))

    writer = events.Events(tmp_path)
    writer.replace([])
    for epoch in (1, 2, 3, 4):
        writer.append(rows(epoch))
    reader = EventAccumulator(str(tmp_path))
    reader.Reload()
    assert [point.step for point in reader.Scalars("train_loss/module_1")] == [1, 2, 3, 4]
    writer.close()
    again = events.Events(tmp_path)
    again.replace([*rows(1), *rows(2)])
    again.append(rows(3))
    again.close()
    fresh = EventAccumulator(str(tmp_path))
    for accumulator in (reader, fresh):
        accumulator.Reload()
        found = accumulator.Scalars("train_loss/module_1")
        assert [(point.step, point.value) for point in found] == [
            (1, 1.0),
            (2, 0.5),
            (3, pytest.approx(1 / 3)),
        ]
        assert found[1].wall_time - found[0].wall_time == pytest.approx(60.0)


def test_a_missing_package_is_told_before_anything_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "tensorboard" else find(name)
    )
    for command in (["train"], ["compare", "--seeds", "0", "--jobs", "1"]):
        words = [*command, "digits-20x1", "--tensorboard", "--out", str(tmp_path / "run")]
        assert main([*words, "--data", str(tmp_path / "nothing.npz")]) == 2
        said = capsys.readouterr()
        assert "pip install 'trgl[tensorboard]'" in " ".join(said.err.split())
        assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("installed")
def test_the_option_of_the_commands(tmp_path: Path) -> None:
    out = tmp_path / "both"
    words = [*SIZE.split(), "--quiet", "--jobs", "1", "--methods", "vanilla,end-to-end"]
    assert (
        main(["compare", "digits-20x1", "--seeds", "0", *words, "--tensorboard", "--out", str(out)])
        == 0
    )
    for name, modules in (("vanilla-seed0", {1, 2, 3}), ("end-to-end-seed0", {3})):
        found = points(out / name)
        assert found == expected(out / name)
        losses = {tag for tag in found if tag.startswith("train_loss/")}
        assert losses == {f"train_loss/module_{k}" for k in modules}
    assert not list(out.glob(rundir.EVENTS))
    assert read_config(out)["tensorboard"] is True

    # a run that goes on remembers the option, and can be given it, or rid of it
    run = out / "vanilla-seed0"
    (run / rundir.SUMMARY).unlink()
    for file in run.glob(rundir.EVENTS):
        file.unlink()
    assert main(["train", "--resume", str(run), "--quiet", "--no-tensorboard"]) == 0
    assert not list(run.glob(rundir.EVENTS))
    (run / rundir.SUMMARY).unlink()
    assert main(["train", "--resume", str(run), "--quiet"]) == 0
    assert points(run) == expected(run)
    assert json.loads((run / rundir.SUMMARY).read_text())["state"] == "done"
