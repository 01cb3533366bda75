"""Disks that are full or only read, and runs of a comparison that die: what is good stays."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from served import Server, check_same

from trgl import rundir
from trgl.checkpoint import Checkpoints

SIZE = "--modules 3 --filters 4 --train-size 30 --batch-size 8 --evaluate-every 2 --epochs 4"
RUN = [*["train", "digits-20x1", "--quiet", "--checkpoint-every", "2"], *SIZE.split()]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("log") / "log.txt")
    yield server
    server.close()


@pytest.fixture(scope="module")
def whole(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that had a disk with room."""
    path = tmp_path_factory.mktemp("whole") / "run"
    assert server.run(*RUN, "--out", path) == 0, server.log.read_text()
    return path


class Disk:
    """A small file system in memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.mount("-t", "tmpfs", "-o", "size=8m", "tmpfs")

    def mount(self, *words: str) -> None:
        done = subprocess.run(["mount", *words, self.path], capture_output=True, text=True)
        if done.returncode:
            raise OSError(done.stderr.strip())

    def change(self, option: str) -> None:
        self.mount("-o", f"remount,{option}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    (tmp_path / "disk").mkdir()
    if shutil.which("mount") is None:
        pytest.skip("no command mount")
    try:
        disk = Disk(tmp_path / "disk")
    except OSError as error:
        pytest.skip(f"no small disk can be mounted: {error}")
    yield disk
    subprocess.run(["umount", disk.path], check=True)


def told(server: Server, before: int) -> str:
    return " ".join(server.log.read_text()[before:].split())


def said(server: Server) -> int:
    return len(server.log.read_text()) if server.log.exists() else 0


def state_of(run: Path) -> str:
    return str(json.loads((run / rundir.SUMMARY).read_text())["state"])


def test_a_run_on_a_disk_that_fills_goes_on_when_there_is_room(
    server: Server, whole: Path, disk: Disk
) -> None:
    one = max(path.stat().st_size for path in Checkpoints(whole / rundir.CHECKPOINTS).paths())
    disk.change(f"size={(3 * one // 2 + 40_000) // 1024}k")  # for one checkpoint, not for two
    run, before = disk.path / "run", said(server)
    assert server.run(*RUN, "--out", run) == 1
    good = run / rundir.CHECKPOINTS / "step-0000000002.pt"
    assert Checkpoints(run / rundir.CHECKPOINTS).paths() == [good]
    text = told(server, before)
    assert "No checkpoint was saved, because the disk is full ([Errno 28]" in text
    assert f"the last good one is {good}" in text
    assert f"trgl train --resume {run} goes on from there" in text
    assert state_of(run) == "failed"
    assert len(rundir.read_metrics(run)) == 3 * 4  # it trained on
    disk.change("size=8m")
    assert server.run("train", "--resume", run, "--quiet") == 0, server.log.read_text()
    check_same(run, whole)


def test_a_disk_with_no_room_at_all_is_named_before_anything_is_trained(
    server: Server, disk: Disk
) -> None:
    disk.change("size=8k")
    (disk.path / "filler").write_bytes(bytes(4096))
    before = said(server)
    assert server.run(*RUN, "--out", disk.path / "run") == 1
    text = told(server, before)
    assert f"No space left on device: '{disk.path / 'run' / rundir.CONFIG}'" in text
    assert "The run had not begun" in text
    assert "--resume" not in text
    assert os.listdir(disk.path / "run") == []


def test_a_disk_that_becomes_read_only_is_named_and_keeps_the_run(
    server: Server, whole: Path, disk: Disk
) -> None:
    run, before = disk.path / "run", said(server)
    process = server.start(*RUN, "--out", run)
    deadline = time.monotonic() + 60
    while len(list(run.glob(f"{rundir.CHECKPOINTS}/step-*.pt"))) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(process, signal.SIGKILL)
    assert server.wait() == -signal.SIGKILL
    disk.change("ro")
    files = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert server.run("train", "--resume", run, "--quiet") == 1
    assert f"Read-only file system: '{run}/" in told(server, before)
    assert server.run(*RUN, "--out", disk.path / "other") == 2
    assert f"{disk.path / 'other'} cannot: Read-only file system" in told(server, before)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == files
    disk.change("rw")
    assert server.run("train", "--resume", run, "--quiet") == 0, server.log.read_text()
    check_same(run, whole)


def test_a_run_whose_files_may_not_grow_says_so_and_can_go_on(
    server: Server, whole: Path, tmp_path: Path
) -> None:
    run, before = tmp_path / "run", said(server)
    limits = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
    room = (whole / rundir.CONFIG).stat().st_size + 2000
    assert room < min(p.stat().st_size for p in Checkpoints(whole / rundir.CHECKPOINTS).paths())
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        assert server.run(*RUN, "--out", run) == 1
    finally:
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, limits)
    text = told(server, before)
    assert "because it cannot be written ([Errno 27] File too large" in text
    assert "none is there yet" in text
    assert state_of(run) == "failed"
    assert server.run("train", "--resume", run, "--quiet") == 0, server.log.read_text()
    check_same(run, whole)


def test_a_comparison_whose_worker_was_killed_is_finished_by_resume(
    server: Server, tmp_path: Path
) -> None:
    given = ["compare", "digits-20x1", "--seeds", "0", "--methods", "vanilla,transport"]
    given += SIZE.split()
    given += ["--quiet", "--checkpoint-every", "2"]
    first, second = tmp_path / "whole", tmp_path / "parts"
    assert server.run(*given, "--jobs", 1, "--threads", 1, "--out", first) == 0
    before = said(server)
    process = server.start(*given, "--jobs", 2, "--threads", 1, "--out", second)
    victim = second / "transport-seed0"
    deadline = time.monotonic() + 120
    while (worker := owner(process, victim)) is None:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    os.kill(worker, signal.SIGKILL)
    assert server.wait() == 1
    assert "1 of 2 runs: the process of the run ended with exit code -9" in told(server, before)
    assert state_of(second / "vanilla-seed0") == "done"
    assert server.run("compare", "--resume", second, "--quiet") == 0, server.log.read_text()
    for method in ("vanilla", "transport"):
        check_same(second / f"{method}-seed0", first / f"{method}-seed0")
    tables = [json.loads((path / "table.json").read_text())["methods"] for path in (first, second)]
    for method in ("vanilla", "transport"):
        assert tables[0][method]["values"] == tables[1][method]["values"]


def owner(parent: int, run: Path) -> int | None:
    """The process below another one that has a run's directory open."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    for child in children:
        try:
            handles = [os.path.realpath(path) for path in Path(f"/proc/{child}/fd").iterdir()]
        except OSError:  # it ended
            continue
        if str(run) in handles:
            return int(child)
    return None
