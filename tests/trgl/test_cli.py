"""The command line: train and compare, from the words to the files that they leave."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from commands import TINY, trgl
from small_runs import without_times

from trgl import recipes


def test_train_leaves_everything_in_the_run_directory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert trgl("train", "digits-20x1", *TINY, "--seed", "3", "--out", out) == 0
    captured = capsys.readouterr()
    assert sorted(os.listdir(out)) == [
        "accuracy_by_depth.png",
        "checkpoints",
        "config.json",
        "metrics.jsonl",
        "summary.json",
    ]
    config = json.loads((out / "config.json").read_text())
    assert (config["seed"], config["recipe"]["epochs"]) == (3, 2)
    assert config["sources"]["epochs"] == "command line"
    assert "20 training and 797 test images" in captured.out
    assert "test accuracy, last module:" in captured.out
    assert str(out / "accuracy_by_depth.png") in captured.out
    assert "transport-seed3: epoch 2 of 2" in captured.err
    assert "\r" not in captured.err


def test_quiet_is_quiet_and_numbers_count_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for number in (1, 2):
        assert trgl("train", "digits-20x1", *TINY, "--method", "vanilla", "--quiet") == 0
        captured = capsys.readouterr()
        assert captured.err == ""
        assert f"runs/digits-20x1-00{number}" in captured.out


@pytest.mark.parametrize(
    "command", [["train"], ["compare", "--methods", "vanilla", "--seeds", "0"]]
)
def test_a_missing_engine_is_told_once(
    command: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("trgl_kernels.extension.notice", lambda: "no compiler. Remedy: install it")
    first, *rest = command
    assert trgl(first, "digits-20x1", *rest, *TINY, "--out", tmp_path / "run") == 0
    assert capsys.readouterr().err.count("trgl: no compiler. Remedy: install it\n") == 1


def test_a_run_is_never_overwritten_silently(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    command = ["train", "digits-20x1", *TINY, "--quiet", "--out", out]
    assert trgl(*command) == 0
    before = (out / "metrics.jsonl").read_bytes()
    capsys.readouterr()
    assert trgl(*command) == 2
    captured = capsys.readouterr()
    assert "--overwrite" in captured.err
    assert len(captured.err.strip().splitlines()) == 1
    assert (out / "metrics.jsonl").read_bytes() == before
    assert trgl(*command, "--overwrite", "--epochs", "1") == 0
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 2


def test_compare_writes_tables_and_a_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "cmp"
    command = ["compare", "digits-20x1", *TINY, "--seeds", "0-1", "--quiet", "--jobs", "1"]
    assert trgl(*command, "--out", out) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    names = [f"{method}-seed{seed}" for method in recipes.METHODS for seed in (0, 1)]
    tables = ["table.md", "table.csv", "table.json"]
    assert sorted(os.listdir(out)) == sorted(
        [*names, *tables, "accuracy_by_depth.png", "config.json"]
    )
    table = json.loads((out / "table.json").read_text())
    for method in recipes.METHODS:
        for seed in (0, 1):
            summary = json.loads((out / f"{method}-seed{seed}" / "summary.json").read_text())
            value = summary["accuracy"]["last_module_last_epoch"]
            assert table["methods"][method]["values"][str(seed)] == value
    text = (out / "table.md").read_text()
    assert "module by module, transport (tau = 0.05)" in text
    assert "transport minus vanilla" in captured.out
    assert f"picture: {out / 'accuracy_by_depth.png'}" in captured.out

    (out / "notes.txt").write_text("mine")
    assert trgl(*command, "--out", out) == 2
    again = [*command, "--methods", "vanilla", "--out", out, "--overwrite"]
    assert trgl(*again) == 0
    assert sorted(os.listdir(out)) == sorted(
        [
            *("vanilla-seed0", "vanilla-seed1", "notes.txt", "config.json"),
            *("accuracy_by_depth.png", *tables),
        ]
    )


def test_train_and_compare_give_the_same_figures(tmp_path: Path) -> None:
    assert trgl("train", "digits-20x1", *TINY, "--quiet", "--out", tmp_path / "t") == 0
    compare = ["compare", "digits-20x1", *TINY, "--seeds", "0", "--methods", "transport"]
    assert trgl(*compare, "--quiet", "--out", tmp_path / "c") == 0
    one, other = (
        json.loads((tmp_path / place / "summary.json").read_text())
        for place in ("t", "c/transport-seed0")
    )
    assert one["accuracy"] == other["accuracy"]
    assert one["loss"] == other["loss"]


def test_a_comparison_with_a_cache_gives_the_same_figures(tmp_path: Path) -> None:
    words = ["compare", "digits-20x1", *TINY, "--regime", "sequential", "--crop-padding", "0"]
    words += ["--seeds", "0", "--encoder", "trained", "--chunk", "16", "--quiet", "--jobs", "1"]
    (tmp_path / "kept").mkdir()
    assert trgl(*words, "--out", tmp_path / "a", "--cache", tmp_path / "kept", "--offload") == 0
    assert trgl(*words, "--out", tmp_path / "b") == 0
    for method in ("vanilla", "transport", "end-to-end"):
        places = [tmp_path / name / f"{method}-seed0" for name in "ab"]
        assert without_times(places[0]) == without_times(places[1])
        configs = [json.loads((place / "config.json").read_text()) for place in places]
        assert [c["cache"] for c in configs] == [str(tmp_path / "kept"), None]
        assert [c["offload"] for c in configs] == [True, False]
        assert configs[0]["recipe"]["chunk"] == 16
    assert list((tmp_path / "kept").iterdir()) == []


def test_a_failed_run_does_not_stop_a_comparison(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "cmp"
    diverging = ["--end-to-end-learning-rate", "1e30", "--seeds", "0", "--out", out]
    assert trgl("compare", "digits-20x1", *TINY, "--jobs", "1", *diverging) == 1
    captured = capsys.readouterr()
    assert "end-to-end, seed 0: failed: Module 2 diverged" in captured.err
    assert "trgl: failed: 1 of 3 runs: Module 2 diverged" in captured.err
    assert "Traceback" not in captured.err
    again = ["compare", "digits-20x1", *TINY, "--jobs", "1", "--methods", "end-to-end"]
    assert trgl("--traceback", *again, *diverging, "--overwrite") == 1
    assert "Traceback (most recent call last)" in capsys.readouterr().err
    assert trgl("compare", "digits-20x1", *TINY, "--jobs", "1", *diverging, "--overwrite") == 1
    assert "failed" in (out / "table.md").read_text()
    assert json.loads((out / "table.json").read_text())["methods"]["vanilla"]["values"]


def test_an_npz_file_replaces_the_data_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draws = np.random.default_rng(0)
    np.savez(
        tmp_path / "mine.npz",
        x_train=draws.integers(0, 256, (20, 16, 16, 3), dtype=np.uint8),
        y_train=np.arange(20) % 2,
        x_test=draws.integers(0, 256, (4, 16, 16, 3), dtype=np.uint8),
        y_test=np.arange(4) % 2,
    )
    words = ["train", "cifar10-resnet18-k4", "--data", tmp_path / "mine.npz", "--epochs", "1"]
    assert trgl(*words, "--train-size", "10", "--out", tmp_path / "run", "--threads", "1") == 0
    assert "mine, 10 training and 4 test images" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["modules"] == 4


def test_real_mnist(data_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--data", data_folder, "--out", tmp_path / "run", "--quiet", "--modules", "2"]
    assert trgl("train", "mnist-20x1", *words, "--filters", "8", "--epochs", "20") == 0
    assert "150 training and 10,000 test images" in capsys.readouterr().out
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["accuracy"]["last_module_last_epoch"] > 0.5


def test_a_row_of_real_mnist_stands_beside_the_published(
    data_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "compare",
        "t13-resnet20x1-32-mnist-150-parallel-k20",
        "--data",
        data_folder,
        "--quiet",
    ]
    words += ["--seeds", "0", "--methods", "vanilla,transport", "--jobs", "1", "--filters", "4"]
    words += ["--epochs", "1", "--pretrain-epochs", "1", "--out", tmp_path / "out"]
    assert trgl(*words) == 0
    shown = capsys.readouterr().out
    assert "Beside NeurIPS 2023, Table 13" in shown
    assert "81.84 ± 1.22 %" in shown
    assert "87.48 ± 0.42 %" in shown
    assert "`tau, weighting`: ours, not published" in shown
    facts = json.loads((tmp_path / "out" / "table.json").read_text())["published"]
    assert facts["methods"]["vanilla"]["memory_saved_percent"] > 20
    assert facts["methods"]["transport"]["published_accuracy"] == pytest.approx(0.8748)


def test_a_sweep_over_tau(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["compare", "digits-20x1", "--taus", "0.5,5", "--methods", "vanilla,transport"]
    words += ["--seeds", "0", "--modules", "2", "--filters", "4", "--epochs", "2", "--jobs", "1"]
    words += ["--validation-size", "20"]
    assert trgl(*words, "--evaluate-every", "2", "--out", tmp_path / "out", "--quiet") == 0
    shown = capsys.readouterr().out
    assert "transport (tau = 0.5)" in shown
    assert "transport (tau = 5)" in shown
    assert re.search(
        r"the 20 validation images prefer (0\.5|5|0\.5 and 5): ", " ".join(shown.split())
    )
    assert (tmp_path / "out" / "accuracy_by_tau.png").read_bytes().startswith(b"\x89PNG")
    runs = sorted(path.name for path in (tmp_path / "out").iterdir() if path.is_dir())
    assert runs == ["transport-tau0.5-seed0", "transport-tau5-seed0", "vanilla-seed0"]
    config = json.loads((tmp_path / "out" / runs[0] / "config.json").read_text())
    assert (config["recipe"]["tau"], config["method"]) == (0.5, "transport")
    assert trgl(*words, "--methods", "vanilla", "--out", tmp_path / "none") == 2
    assert "add it, or give --taus ''" in capsys.readouterr().err
