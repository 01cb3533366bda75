"""Commands of `trgl` in processes of their own, and whether two runs are the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from small_runs import without_times
from torch import Tensor

from trgl import rundir
from trgl.checkpoint import Checkpoints

ROOT = Path(__file__).parents[2]


class Server:
    """Starts commands of `trgl` quickly."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / "support" / "killable.py")],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._line() == "ready"

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def start(self, *words: object) -> int:
        """Starts a command; returns its process."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([str(self.log), *map(str, words)]) + "\n")
        self.process.stdin.flush()
        return int(self._line())

    def wait(self) -> int:
        """The exit code of the command, negative for a signal."""
        assert self.process.stdin is not None
        self.process.stdin.write("wait\n")
        self.process.stdin.flush()
        return int(self._line())

    def run(self, *words: object) -> int:
        self.start(*words)
        return self.wait()

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close()


def final(path: Path) -> Any:
    """The state at the end of a run."""
    found = Checkpoints(path / rundir.CHECKPOINTS).load()
    assert found is not None
    return found[1]


def check_same(mine: Path, theirs: Path) -> None:
    assert without_times(mine) == without_times(theirs)
    a, b = final(mine), final(theirs)
    for key in ("network", "optimizers", "schedulers", "weights"):
        assert same(a[key], b[key]), key
    summaries = [json.loads((path / rundir.SUMMARY).read_text()) for path in (mine, theirs)]
    assert [s["state"] for s in summaries] == ["done", "done"]
    for key in ("accuracy", "loss", "epochs_evaluated"):
        assert summaries[0][key] == summaries[1][key]


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)
