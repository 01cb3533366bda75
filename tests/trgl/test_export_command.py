"""``trgl export`` and ``trgl diagnose`` on runs that were really trained."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import trgl
from tiny_sets import write_folders

from trgl.cli.export import chosen_depth
from trgl.data import decode, load
from trgl.diagnose import diagnose, draw
from trgl.prepare import make_loaders
from trgl.restore import load_network
from trgl.strict_json import to_json

TINY = ["--modules", "3", "--filters", "4", "--train-size", "40", "--validation-size", "10"]
TINY += ["--epochs", "2", "--quiet"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trained") / "run"
    assert trgl("train", "digits-20x1", *TINY, "--out", path) == 0
    return path


def test_the_best_module_is_exported(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "model.pt"
    assert trgl("export", run, "--depth", "best", "--out", out) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    summary = json.loads((run / "summary.json").read_text())
    best = summary["accuracy"]["best_module_by_validation"]["module"]
    assert f"{best} of 3 modules" in captured.out
    assert "logits: equal (the largest" in captured.out
    network, _ = load_network(run)
    model = network.assemble(best)
    for value in model.state_dict().values():
        value.zero_()
    line = next(line for line in captured.out.splitlines() if line.startswith("load:"))
    command = line.removeprefix("load:").split("#")[0].strip()
    exec(command, {"model": model, "torch": torch})
    images = torch.randn(4, 1, 8, 8)
    fresh, _ = load_network(run)
    with torch.no_grad():
        assert torch.equal(model(images), fresh(images, best))


def test_a_program_is_exported_and_never_over_something_else(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "model.pt2"
    out.write_text("mine")
    command = ["export", run, "--depth", "1", "--format", "torch-export", "--out", out]
    assert trgl(*command) == 2
    assert "add --overwrite" in capsys.readouterr().err
    assert out.read_text() == "mine"
    assert trgl(*command, "--overwrite") == 0
    assert "1 of 3 modules" in capsys.readouterr().out
    logits = torch.export.load(out).module()(torch.zeros(6, 1, 8, 8))
    assert logits.shape == (6, 10)


@pytest.mark.parametrize("text", ["0", "4", "first", "-1", "1.5"])
def test_depths_that_are_none(run: Path, text: str) -> None:
    with pytest.raises(ValueError, match="best, last or a number of modules from 1 to 3, received"):
        chosen_depth(text, run, 3)


def test_what_cannot_be_exported(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert trgl("export", tmp_path, "--out", tmp_path / "m.pt") == 2
    assert "holds no run of trgl" in capsys.readouterr().err
    assert trgl("export", run, "--out", tmp_path / "nowhere" / "m.pt") == 2
    assert "no directory" in capsys.readouterr().err
    (tmp_path / "summary.json").write_text('{"state": "done", "accuracy": {}}')
    with pytest.raises(ValueError, match="the validation images chose, but this run has none"):
        chosen_depth("best", tmp_path, 3)
    assert chosen_depth("last", tmp_path, 3) == 3


def test_classifiers_that_never_trained_are_not_exported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = tmp_path / "run", tmp_path / "model.pt"
    whole = [*TINY, "--method", "end-to-end", "--epochs", "1"]
    assert trgl("train", "digits-20x1", *whole, "--no-shared-head", "--out", run) == 0
    assert trgl("export", run, "--depth", "2", "--out", out) == 2
    assert "trains the last classifier alone, so that depth 2 of" in capsys.readouterr().err
    assert not out.exists()
    assert trgl("export", run, "--out", out) == 0


def test_a_run_is_diagnosed_and_the_report_shows_it(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = ["--samples", "60", "--probe-test", "100", "--quiet"]
    assert trgl("diagnose", run, *sizes) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    found = json.loads((run / "diagnostics.json").read_text())
    assert (found["samples"], found["probe_train"], found["probe_test"]) == (60, 30, 100)
    assert [module["module"] for module in found["modules"]] == [0, 1, 2, 3]
    for module in found["modules"][1:]:
        assert module["transport"]["samples"] == 60
        assert 0 <= module["composition"]["optimality"] <= 1
        assert module["lipschitz"]["pairs"] == 60 * 59 // 2
        assert 0.1 < module["separability"]["test_accuracy"] <= 1
        value = module["composition"]["optimality"]
        assert f"{value:.4f}" in captured.out
    assert len([line for line in captured.out.splitlines() if line.startswith("|")]) == 6
    before = (run / "diagnostics.json").read_bytes()
    assert trgl("diagnose", run, *sizes) == 0  # it repeats to the last bit
    assert (run / "diagnostics.json").read_bytes() == before
    assert trgl("report", run) == 0
    page = (run / "report.html").read_text()
    for key in ("separability", "displacement", "optimality", "lipschitz"):
        assert f'<section id="{key}"' in page
    os.remove(run / "report.html")


def test_of_image_files_only_the_samples_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folders(tmp_path / "data", train=30, test=20)
    run = tmp_path / "run"
    tiny = ["--modules", "2", "--filters", "4", "--epochs", "1", "--head", "linear", "--quiet"]
    place = ["--dataset", "image-folder", "--data", tmp_path / "data", "--train-size", "0"]
    assert trgl("train", "cifar10-20x1", *tiny, *place, "--workers", "0", "--out", run) == 0
    network, recipe = load_network(run)
    images = load("image-folder", tmp_path / "data", image_size=recipe.image_size)
    loaders = make_loaders(recipe, images, 0)  # from all images, as the training had them
    plain, test = list(loaders.plain), list(loaders.test)
    expected = diagnose(network, draw(test, 5, 0)[0], (draw(plain, 9, 0), draw(test, 7, 0)))

    read: list[str] = []
    original = decode.opened
    monkeypatch.setattr(decode, "opened", lambda path: read.append(path) or original(path))
    load("image-folder", tmp_path / "data", image_size=recipe.image_size)
    loading = len(read)
    sizes = ["--samples", "5", "--probe-train", "9", "--probe-test", "7", "--quiet"]
    assert trgl("diagnose", run, *sizes) == 0
    assert len(read) - 2 * loading == 5 + 9 + 7
    found = json.loads((run / "diagnostics.json").read_text())
    figures = json.loads(to_json(expected.as_dict()))
    assert {key: found[key] for key in figures} == figures


def test_what_cannot_be_diagnosed(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert trgl("diagnose", tmp_path) == 2
    assert "holds no run of trgl" in capsys.readouterr().err
    assert trgl("diagnose", run, "--samples", "1") == 2
    assert "at least 2" in capsys.readouterr().err


def test_a_run_is_diagnosed_on_its_own_images(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    others = tmp_path / "others.npz"
    draws = np.random.default_rng(0)
    pixels = [draws.integers(0, 256, (count, 8, 8), dtype=np.uint8) for count in (200, 100)]
    labels = [np.arange(count) % 10 for count in (200, 100)]
    np.savez(others, x_train=pixels[0], y_train=labels[0], x_test=pixels[1], y_test=labels[1])
    assert trgl("diagnose", run, "--data", others) == 2
    assert "was trained on others than those in" in capsys.readouterr().err
