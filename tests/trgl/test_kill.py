"""Runs that are killed at any instant, and resumed: as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from served import Server, check_same

from trgl import rundir


def words(text: str) -> list[str]:
    return text.split()


TINY = words("--modules 3 --filters 4 --train-size 30 --batch-size 8 --evaluate-every 2")
CASES = {
    "parallel": words("--epochs 5 --accumulate 3 --optimizer adamw --schedule cosine --flip"),
    "sequential": words("--regime sequential --epochs 2"),
    "multi-lap, multipliers": words(
        "--regime multi-lap --laps 2 --epochs 2 --weighting multipliers --multiplier-every 3"
    ),
    "end-to-end": words("--method end-to-end --epochs 5"),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("log") / "log.txt")
    yield server
    server.close()


def command(case: str, out: Path, every: str = "1") -> list[object]:
    given = [*words("train digits-20x1 --seed 1 --quiet --checkpoint-every"), every]
    return [*given, *TINY, *CASES[case], "--out", out]


@pytest.mark.parametrize("case", CASES)
def test_a_run_that_is_killed_at_any_instant_goes_on_as_if_nothing_had_happened(
    server: Server, tmp_path: Path, case: str
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    began = time.monotonic()
    assert server.run(*command(case, whole)) == 0
    took = time.monotonic() - began
    draws = random.Random(case)
    kills = 0
    resume: list[object] = ["train", "--resume", parts, "--quiet"]
    for _ in range(4):
        again = rundir.is_run_directory(parts)
        process = server.start(*(resume if again else [*command(case, parts), "--overwrite"]))
        time.sleep(draws.uniform(0.05, 0.6) * took)
        os.kill(process, signal.SIGKILL)
        code = server.wait()
        kills += code == -signal.SIGKILL
        assert code in (0, -signal.SIGKILL), server.log.read_text()
    if not rundir.is_run_directory(parts):
        resume = [*command(case, parts), "--overwrite"]
    assert server.run(*resume) == 0, server.log.read_text()
    assert kills > 0
    check_same(parts, whole)
    names = sorted(path.name for path in (parts / rundir.CHECKPOINTS).iterdir())
    assert len(names) == 2
    assert all(name.startswith("step-") for name in names)
    assert [name for name in os.listdir(parts) if name.startswith(".")] == []


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["INT", "TERM"]
)
def test_a_run_that_is_interrupted_saves_first(
    server: Server, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert server.run(*command("sequential", whole, "never")) == 0
    process = server.start(*command("sequential", parts, "never"))
    deadline = time.monotonic() + 60
    while not (parts / rundir.METRICS).exists():
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(process, number)
    assert server.wait() == code
    assert len(list((parts / rundir.CHECKPOINTS).iterdir())) == 1  # it is there although "never"
    summary = json.loads((parts / rundir.SUMMARY).read_text())
    assert summary["state"] == "interrupted"
    assert "was stopped after epoch" in summary["reason"]
    assert server.run("train", "--resume", parts, "--quiet") == 0
    check_same(parts, whole)


def test_a_comparison_goes_on_with_the_runs_that_are_not_done(
    server: Server, tmp_path: Path
) -> None:
    given = words("compare digits-20x1 --epochs 2 --seeds 0 --jobs 1 --checkpoint-every 1 --quiet")
    given += TINY
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert server.run(*given, "--out", whole) == 0
    process = server.start(*given, "--out", parts)
    deadline = time.monotonic() + 60
    while not (parts / "transport-seed0" / rundir.METRICS).exists():
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(process, signal.SIGKILL)
    assert server.wait() == -signal.SIGKILL
    before = (parts / "vanilla-seed0" / rundir.SUMMARY).stat().st_mtime_ns
    assert server.run("compare", "--resume", parts, "--quiet") == 0, server.log.read_text()
    assert (parts / "vanilla-seed0" / rundir.SUMMARY).stat().st_mtime_ns == before
    for method in ("vanilla", "transport", "end-to-end"):
        check_same(parts / f"{method}-seed0", whole / f"{method}-seed0")
    tables = [json.loads((path / "table.json").read_text())["methods"] for path in (whole, parts)]
    assert tables[0]["vanilla"]["values"] == tables[1]["vanilla"]["values"]
