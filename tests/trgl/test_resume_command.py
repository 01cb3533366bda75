"""``--resume``: what a run began with cannot be given anew, whatever its value."""

from __future__ import annotations

from pathlib import Path

import pytest

from trgl.cli import main


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("begun") / "run"
    tiny = ["--modules", "2", "--filters", "4", "--train-size", "30", "--epochs", "1"]
    assert main(["train", "digits-20x1", *tiny, "--seed", "1", "--quiet", "--out", str(path)]) == 0
    return path


@pytest.mark.parametrize(
    "words",
    [
        ["--seed", "0"],
        ["--method", "transport"],
        ["--no-flip"],
        ["--validation-size", "0"],
        ["--epochs", "3"],
        ["--taus", ""],
        ["digits-20x1"],
        ["--overwrite"],
    ],
    ids=" ".join,
)
def test_what_is_settled_is_refused(
    run: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    before = sorted((path.name, path.stat().st_mtime_ns) for path in run.iterdir())
    assert main(["train", "--resume", str(run), *words]) == 2
    option = {"--no-flip": "--flip", "digits-20x1": "RECIPE"}.get(words[0], words[0])
    said = " ".join(capsys.readouterr().err.split())
    assert f"as it began, but received also {option}; leave that out" in said
    assert sorted((path.name, path.stat().st_mtime_ns) for path in run.iterdir()) == before


def test_what_may_be_new_is_taken(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    again = ["--keep-checkpoints", "1", "--checkpoint-every", "never", "--device", "cpu"]
    assert main(["train", "--resume", str(run), *again]) == 0
    assert "seed 1" in capsys.readouterr().out
