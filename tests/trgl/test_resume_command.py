"""``--resume``: what may be given anew, and what is said where a run cannot go on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
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


NET = """
from torch import nn

def network(input_shape, num_classes):
    return nn.Sequential(*[nn.Conv2d(c, {width}, 3, padding=1) for c in (1, {width}, {width})])
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An unfinished run of a network and images of one's own, both given by relative paths."""
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(NET.format(width=2))
    draws = np.random.default_rng(0)
    np.savez("small.npz", **images(draws))
    words = ["--network", "own.py:network", "--encoder", "stem", "--energy", "displacement"]
    words += ["--modules", "2", "--train-size", "20", "--epochs", "2", "--data", "small.npz"]
    assert main(["train", "digits-20x1", *words, "--quiet", "--out", "run"]) == 0
    shorten(tmp_path / "run")
    return tmp_path / "run"


def images(draws: np.random.Generator) -> dict[str, Any]:
    return {
        "x_train": draws.integers(0, 256, (20, 8, 8), dtype=np.uint8),
        "y_train": np.arange(20) % 2,
        "x_test": draws.integers(0, 256, (4, 8, 8), dtype=np.uint8),
        "y_test": np.arange(4) % 2,
    }


def shorten(run: Path) -> None:
    """Let a run that is done look as one that was killed at its end."""
    for name in ("summary.json", "accuracy_by_depth.png"):
        (run / name).unlink()


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.split())


def content(run: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_images_are_found_from_another_directory_and_may_have_moved(
    own: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    shutil.copytree(own, tmp_path / "copy")
    assert main(["train", "--resume", str(tmp_path / "copy"), "--quiet"]) == 0
    (tmp_path / "small.npz").rename("moved.npz")
    before = content(own)
    for words in (["train", "--resume", str(own)], ["diagnose", str(own)]):
        capsys.readouterr()
        assert main(words) == 2
        told = f"read its images from {tmp_path / 'small.npz'}, which is not there any more; give"
        assert told in said(capsys)
    assert content(own) == before
    assert main(["train", "--resume", str(own), "--quiet", "--data", "moved.npz"]) == 0
    assert "goes on" not in said(capsys)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("what", ["images", "network"])
def test_what_another_run_would_be_leaves_the_run_as_it_was(
    own: Path, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    if what == "images":
        np.savez("small.npz", **images(np.random.default_rng(1)))
    else:
        Path("own.py").write_text(NET.format(width=3))
    before = content(own)
    assert main(["train", "--resume", str(own), "--quiet"]) == 2
    told = said(capsys)
    assert f"Nothing was trained; {own} is as it was." in told
    assert "goes on from there" not in told
    assert content(own) == before
    if what == "network":
        warned = f"trgl: warning: {Path('own.py').resolve()}, which makes the network, has changed"
        assert warned in told
        assert "UserWarning" not in told


def test_damaged_and_missing_checkpoints(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = own / "checkpoints"
    for path in folder.iterdir():
        path.write_bytes(b"")
    assert main(["train", "--resume", str(own), "--quiet"]) == 2
    told = said(capsys)
    assert f"put aside, so that trgl train --resume {own} begins anew." in told
    assert "goes on from there" not in told
    for _ in range(2):
        assert not list(folder.glob("step-*.pt"))
        assert main(["train", "--resume", str(own), "--quiet"]) == 0
        assert f"{folder} holds no checkpoint, so that the run begins anew." in said(capsys)
        shorten(own)
        shutil.rmtree(folder)
        folder.mkdir()


def test_a_run_that_diverged_is_not_gone_on_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    words = ["--modules", "2", "--filters", "4", "--train-size", "20", "--batch-size", "4"]
    words += ["--learning-rate", "1e30", "--epochs", "2", "--checkpoint-every", "1"]
    assert main(["train", "digits-20x1", *words, "--quiet", "--out", str(run)]) == 1
    told = said(capsys)
    assert f"measured until now is in {run}; going on would diverge again: begin another" in told
    assert "--resume" not in told
    assert json.loads((run / "summary.json").read_text())["state"] == "failed"


def test_a_run_without_a_checkpoint_begins_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(5, "Input/output error")

    run = tmp_path / "run"
    words = ["--modules", "2", "--filters", "4", "--train-size", "20", "--epochs", "1"]
    with monkeypatch.context() as patched:
        patched.setattr("trgl.checkpoint.folder.write", refuse)
        assert main(["train", "digits-20x1", *words, "--quiet", "--out", str(run)]) == 1
    told = said(capsys)
    assert f"is in {run}, which holds no checkpoint: trgl train --resume {run} begins anew" in told
    assert main(["train", "--resume", str(run), "--quiet"]) == 0
    assert "holds no checkpoint, so that the run begins anew." in said(capsys)
