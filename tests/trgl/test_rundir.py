"""The run directory: nothing lost, nothing half written, nothing overwritten by accident."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from pathlib import Path

import pytest

from trgl import rundir
from trgl.rundir import RunDirectory, read_metrics


def test_numbers_count_up_and_are_never_shared(tmp_path: Path) -> None:
    names = []
    for _ in range(3):
        with RunDirectory.numbered(tmp_path / "runs", "mnist") as run:
            names.append(run.path.name)
    assert names == ["mnist-001", "mnist-002", "mnist-003"]


def test_a_full_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(ValueError, match="never overwrites silently"):
        RunDirectory.create(tmp_path)
    with pytest.raises(ValueError, match="no earlier run"):
        RunDirectory.create(tmp_path, overwrite=True)
    assert os.listdir(tmp_path) == ["mine.txt"]
    with pytest.raises(ValueError, match="is a file"):
        RunDirectory.create(tmp_path / "mine.txt")


def test_overwriting_removes_a_runs_files_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with RunDirectory.create(out) as run:
        run.write_config({rundir.RUNS: ["inner", "busy", "../elsewhere"]})
        run.append_metrics([{"epoch": 1}])
        run.write_json(rundir.SUMMARY, {})
    with RunDirectory.create(out / "inner") as run:
        run.write_config({"seed": 2})
        run.append_metrics([{"epoch": 1}])
    with RunDirectory.create(out / "independent") as run:
        run.write_config({"seed": 3})
    (out / rundir.SWEEP_PICTURE).write_text("of a sweep that is gone")
    (out / "notes.txt").write_text("mine")
    (out / "figures").mkdir()
    (out / "figures" / rundir.SUMMARY).write_text("mine too")
    (tmp_path / "elsewhere").write_text("linked")
    (out / rundir.PICTURE).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="--overwrite"):
        RunDirectory.create(out)
    with RunDirectory.create(out, overwrite=True) as run:
        assert sorted(os.listdir(out)) == ["figures", "independent", "notes.txt"]
        run.append_metrics([{"epoch": 7}])
    assert read_metrics(out) == [{"epoch": 7}]
    assert os.listdir(out / "independent") == [rundir.CONFIG]
    assert (out / "figures" / rundir.SUMMARY).read_text() == "mine too"
    assert (tmp_path / "elsewhere").read_text() == "linked"


def test_two_runs_cannot_share_a_directory(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path / "run") as run:
        run.write_config({})
        with pytest.raises(ValueError, match="at this moment"):
            RunDirectory.create(tmp_path / "run", overwrite=True)
        assert (tmp_path / "run" / rundir.CONFIG).exists()
    with RunDirectory.create(tmp_path / "run", overwrite=True):
        pass


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS])
def test_a_file_system_without_locks_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def flock(handle: int, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    with RunDirectory.create(tmp_path / "earlier") as run:
        run.write_config({})
    monkeypatch.setattr(fcntl, "flock", flock)
    handles = len(os.listdir("/proc/self/fd"))
    for use in (RunDirectory.create, RunDirectory.open):
        with pytest.raises(ValueError, match=rf"not lock .*\({os.strerror(code)}\)") as told:
            use(tmp_path / ("earlier" if use == RunDirectory.open else "new"))
        assert "another run" not in str(told.value)
    assert len(os.listdir("/proc/self/fd")) == handles


def test_a_directory_that_cannot_be_made() -> None:
    for place in (Path("/proc/trgl"), Path("/dev/null/trgl")):
        with pytest.raises(ValueError, match=r"cannot: .*; choose another --out"):
            RunDirectory.create(place)


def test_overwriting_spares_a_run_that_another_process_writes(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path / "all") as run:
        run.write_config({rundir.RUNS: ["a", "b"]})
    for name in ("a", "b"):
        with RunDirectory.create(tmp_path / "all" / name) as run:
            run.write_config({})
    with RunDirectory.create(tmp_path / "all" / "b", overwrite=True) as run:
        run.write_config({})
        with pytest.raises(ValueError, match="all/b at this moment"):
            RunDirectory.create(tmp_path / "all", overwrite=True)
    for name in ("a", "b", "."):
        assert (tmp_path / "all" / name / rundir.CONFIG).exists()
    with RunDirectory.create(tmp_path / "all", overwrite=True):
        assert not os.listdir(tmp_path / "all")


def test_new_directories_are_synced_into_their_parents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    sync = os.fsync

    def spy(handle: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{handle}"))
        sync(handle)

    monkeypatch.setattr(os, "fsync", spy)
    with RunDirectory.create(tmp_path / "a" / "b"):
        assert {str(tmp_path), str(tmp_path / "a")} <= set(synced)


def test_metrics_are_on_disk_after_every_epoch_and_survive_a_torn_line(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path / "run") as run:
        run.append_metrics([{"epoch": 1, "loss": float("nan")}, {"epoch": 1, "loss": 2.5}])
        assert len(read_metrics(run.path)) == 2
        run.append_metrics([{"epoch": 2, "loss": float("inf")}])
    path = tmp_path / "run" / rundir.METRICS
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"epoch": 1, "loss": None},
        {"epoch": 1, "loss": 2.5},
        {"epoch": 2, "loss": None},
    ]
    path.write_text(path.read_text()[:-9])
    assert len(read_metrics(tmp_path / "run")) == 2
