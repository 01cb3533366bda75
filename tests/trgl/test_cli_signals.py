"""Signals and pipes of whole processes: exit codes, what is kept, no traceback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import TINY

from trgl.cli import main

ROOT = Path(__file__).parents[2]


def start(*words: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "trgl", *map(str, words)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_lines(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not (path.exists() and path.read_bytes().count(b"\n") > 3):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("jobs", "number", "code", "word"),
    [
        (0, signal.SIGINT, 130, "interrupted"),
        (0, signal.SIGTERM, 143, "terminated"),
        (1, signal.SIGTERM, 143, "terminated"),
        (2, signal.SIGINT, 130, "interrupted"),
    ],
    ids=["train-INT", "train-TERM", "compare-TERM", "compare-2-jobs-INT"],
)
def test_signals_end_a_run_and_keep_its_metrics(
    tmp_path: Path, jobs: int, number: signal.Signals, code: int, word: str
) -> None:
    out = tmp_path / "run"
    long = [*TINY[:-1], "1000000", "--quiet", "--out", out]
    if jobs:
        where = out / "vanilla-seed0"
        command = "compare"
        process = start("compare", "digits-20x1", *long, "--seeds", "0-1", "--jobs", str(jobs))
    else:
        where, command = out, "train"
        process = start("train", "digits-20x1", *long)
    wait_for_lines(where / "metrics.jsonl", process)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    told = [line for line in errors.splitlines() if "finishing the step" not in line]
    assert [line for line in told if line] == [
        f"What was measured until now is in {out}; trgl {command} --resume {out} goes on from "
        "there.",
        f"trgl: {word}.",
    ]
    lines = (where / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["epoch"] >= 1
    assert json.loads((where / "summary.json").read_text())["state"] == "interrupted"


def test_an_interrupt_during_the_imports_leaves_no_traceback(tmp_path: Path) -> None:
    mark = tmp_path / "importing"
    folder = tmp_path / "slow"
    folder.mkdir()
    (folder / "torch.py").write_text(
        f"import pathlib, time\npathlib.Path({str(mark)!r}).touch()\n"
        "try:\n    time.sleep(60)\n"
        "except BaseException as error:\n    raise ImportError from error\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "trgl_command", "info"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not mark.exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "trgl: interrupted.\n")


def test_a_broken_pipe_that_is_not_the_output_is_told(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("trgl_kernels.info", fail)
    assert main(["info"]) == 1
    assert "trgl: failed: [Errno 32] Broken pipe" in capfd.readouterr().err


def test_a_reader_that_leaves_early_gets_no_traceback() -> None:
    process = start("recipes", "--json")
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait(60) in (0, 1)
    assert "Traceback" not in errors
