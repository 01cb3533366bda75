"""The command line: every command, every exit code, and no traceback for a user's mistake."""

from __future__ import annotations

import argparse
import gzip
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from runs import without_times

from trgl import recipes
from trgl.cli import main
from trgl.cli.compare import methods, seeds
from trgl.cli.main import build_parser
from trgl.cli.options import show
from trgl.cli.progress import Display
from trgl.pace import Progress
from trgl.recipes.recipe import options as recipe_options

ROOT = Path(__file__).parents[2]
TINY = ["--modules", "2", "--filters", "4", "--train-size", "20", "--epochs", "2"]


def trgl(*words: object) -> int:
    return main([str(word) for word in words])


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


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "required: COMMAND"),
        (["fly"], "invalid choice: 'fly'"),
        (["train"], "needs a RECIPE, one of "),
        (["train", "digit-20x1"], "Did you mean digits-20x1?"),
        (["recipes", "mnist"], "Did you mean mnist-20x1?"),
        (["train", "digits-20x1", "--tau", "0"], "tau must be above 0"),
        (["train", "digits-20x1", "--tau", "-1"], "tau must be above 0"),
        (["train", "digits-20x1", "--tau", "small"], "a number expected, received 'small'"),
        (["train", "digits-20x1", "--epochs", "1.5"], "a whole number expected"),
        (["train", "digits-20x1", "--end-to-end-milestones", "1;2"], "separated by commas"),
        (["train", "digits-20x1", "--head", "round"], "invalid choice: 'round'"),
        (["train", "digits-20x1", "--seed", "-1"], "whole number from 0 on"),
        (["train", "digits-20x1", "--seed", str(2**63)], "at most 9223372036854775807"),
        (["train", "digits-20x1", "--seed", "9" * 5000], "at most 9223372036854775807"),
        (["compare", "digits-20x1", "--seeds", f"0,{2**64}"], "at most 9223372036854775807"),
        (["compare", "digits-20x1", "--seeds", "0-999999999999"], "at most 10000 seeds"),
        (["train", "digits-20x1", "--head", "mlp", "--batch-size", "1"], "batch_size 1"),
        (["train", "digits-20x1", "--modules", "0"], "modules must be at least 1"),
        (["train", "digits-20x1", "--train-size", "5"], "--train-size 5"),
        (["train", "digits-20x1", "--train-size", "5000"], "1000 there"),
        (["train", "digits-20x1", "--validation-size", "50"], "must leave training images"),
        (["train", "digits-20x1", "--data", "somewhere"], "part of scikit-learn"),
        (["train", "digits-20x1", "--data", "none.npz"], "none.npz: there is no such file"),
        (["train", "digits-20x1", "--device", "abacus"], "--device must name a device"),
        (["train", "digits-20x1", "--overwrite"], "--overwrite needs --out"),
        (["train", "digits-20x1", "--threads", "99999"], "threads must be at most 1,024"),
        (["train", "digits-20x1", "--cache", "memory"], "crops or flips its images anew"),
        (["compare", "digits-20x1", "--cache", "nowhere"], "'nowhere' is not. Make it"),
        (["train", "digits-20x1", "--chunk", "-1"], "chunk must be at least 0"),
        (
            ["train", "cifar10-resnet18-k4", "--data", "{npz}", "--cache", "memory"],
            "the training set crops or flips",
        ),
        (["train", "digits-20x1", "--epoch", "1"], "unrecognized arguments: --epoch"),
        (["train", "mnist-20x1"], "trgl fetch mnist --to DIR"),
        (
            ["train", "mnist-20x1", "--data", "nowhere"],
            "not in nowhere (looked for train-images-idx3-ubyte,",
        ),
        (
            ["compare", "mnist-20x1", "--data", "nowhere"],
            "trgl fetch mnist --to nowhere",
        ),
        (["compare", "digits-20x1", "--seeds", "4-0"], "a range goes upwards"),
        (["compare", "digits-20x1", "--seeds", "a"], "a range like 0-4"),
        (["compare", "digits-20x1", "--seeds", "1,1"], "each seed once"),
        (["compare", "digits-20x1", "--methods", "magic"], "vanilla, transport, end-to-end"),
        (["train", "digits-20x1", "--lerning-rate", "1"], "Did you mean --learning-rate?"),
        (["compare", "digits-20x1", "--jobs", "0"], "from 1 on"),
        (
            ["train", "cifar10-resnet18-k4", "--modules", "9", "--data", "{npz}"],
            "8 blocks, but 9 modules",
        ),
        (["train", "cifar10-20x1", "--data", "{gz}"], "must be a directory"),
    ],
)
def test_wrong_input_is_one_paragraph_and_exit_code_2(
    words: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    draws = np.random.default_rng(0)
    np.savez(
        "small.npz",
        x_train=draws.integers(0, 256, (20, 16, 16, 3), dtype=np.uint8),
        y_train=np.arange(20) % 2,
        x_test=draws.integers(0, 256, (4, 16, 16, 3), dtype=np.uint8),
        y_test=np.arange(4) % 2,
    )
    Path("file.gz").write_bytes(gzip.compress(b"x"))
    words = [word.format(npz="small.npz", gz="file.gz") for word in words]
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert len(captured.err.strip().splitlines()) == 1
    assert captured.err.startswith("trgl")
    assert sorted(os.listdir()) == ["file.gz", "small.npz"]


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("train digits-20x1 --epoch 3", "--epochs"),
        ("compare digits-20x1 --sed 0", "--seeds"),
        ("report run --ou page", "--out"),
        ("diagnose run --devise cpu", "--device"),
        ("export run --out file --dept best", "--depth"),
        ("memory digits-20x1 --batches=3", "--batch"),
        ("recipes --jsn", "--json"),
        ("fetch mnist --to place --tracebak", "--traceback"),
        ("info --jsno", "--json"),
    ],
)
def test_an_unknown_option_suggests_the_nearest_that_the_command_has(
    words: str, meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words.split()) == 2
    said = capsys.readouterr().err
    assert said.endswith(f"Did you mean {meant}? See trgl {words.split()[0]} --help.\n")


def test_an_unforeseen_failure_is_one_paragraph_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise KeyError("gone")

    monkeypatch.setattr("trgl_kernels.info", fail)
    assert main(["info"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("trgl: failed: KeyError: 'gone'")
    assert "--traceback" in error
    assert main(["--traceback", "info"]) == 1
    assert "Traceback (most recent call last)" in capsys.readouterr().err


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


def test_recipes_are_listed_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in recipes.names())
    assert main(["recipes", "mnist-20x1"]) == 0
    shown = capsys.readouterr().out
    assert "NeurIPS 2023, Table 13" in shown
    for field in recipe_options():
        assert field.name.replace("_", "-") in shown
    assert main(["recipes", "--json"]) == 0
    assert [entry["name"] for entry in json.loads(capsys.readouterr().out)] == recipes.names()
    assert main(["recipes", "mnist-20x1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tau"] == 0.005


def test_recipes_are_filtered_by_table_and_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "--filter", "table 1"]) == 0
    listed = capsys.readouterr().out
    assert "t1-vgg19-tinyimagenet-full-parallel-k4" in listed
    assert "[56.17 / 57.28 / 58.74]" in listed
    assert "t10-" not in listed
    assert main(["recipes", "--filter", "mnist,-150-", "--json"]) == 0
    (one,) = json.loads(capsys.readouterr().out)
    assert one["name"] == "t13-resnet20x1-32-mnist-150-parallel-k20"
    assert one["published_accuracy"]["transport"]["mean"] == pytest.approx(0.8748)
    assert main(["recipes", "resnet110-stl10"]) == 0
    assert "copied from another paper" in capsys.readouterr().out
    assert main(["recipes", "--filter", "abacus"]) == 2
    assert "no recipe has all of abacus" in capsys.readouterr().err


def test_a_sweep_over_tau(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["compare", "digits-20x1", "--taus", "0.5,5", "--methods", "vanilla,transport"]
    words += ["--seeds", "0", "--modules", "2", "--filters", "4", "--epochs", "2", "--jobs", "1"]
    words += ["--validation-size", "20"]
    assert trgl(*words, "--evaluate-every", "2", "--out", tmp_path / "out", "--quiet") == 0
    shown = capsys.readouterr().out
    assert "transport (tau = 0.5)" in shown
    assert "transport (tau = 5)" in shown
    assert re.search(r"the 20 validation images prefer (0\.5|5): ", " ".join(shown.split()))
    assert (tmp_path / "out" / "accuracy_by_tau.png").read_bytes().startswith(b"\x89PNG")
    runs = sorted(path.name for path in (tmp_path / "out").iterdir() if path.is_dir())
    assert runs == ["transport-tau0.5-seed0", "transport-tau5-seed0", "vanilla-seed0"]
    config = json.loads((tmp_path / "out" / runs[0] / "config.json").read_text())
    assert (config["recipe"]["tau"], config["method"]) == (0.5, "transport")
    assert trgl(*words, "--methods", "vanilla", "--out", tmp_path / "none") == 2
    assert "add it, or give --taus ''" in capsys.readouterr().err


def test_info_for_people_and_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    assert main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert f"torch        {facts['versions']['torch']}" in text
    for operator, devices in facts["engines"].items():
        for device, entry in devices.items():
            assert f"{operator} on {device}: {entry['engine']}" in text
            assert all(f"not {name}: {reason}" in text for name, reason in entry["why_not"].items())


def test_info_says_what_is_missing_and_how_to_get_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = {"loaded": False, "reason": "no compiler", "remedy": "install one", "build": None}
    facts = {"versions": {"nvcc": None}, "extension": {**missing, "simd": None}, "engines": {}}
    facts["boundary"] = {"release": False, "why_not": "no compiler"}
    monkeypatch.setattr("trgl_kernels.info", lambda: facts)
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    assert "nvcc  not installed" in text
    assert "compiled extension: not loaded, because no compiler\n  remedy: install one" in text


def test_every_field_is_an_option_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "mnist-20x1", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    recipe = recipes.find("mnist-20x1")
    for field in recipe_options():
        flag = "--" + field.name.replace("_", "-")
        assert flag in text
        value = show(getattr(recipe, field.name))
        unit = " " + field.metadata["unit"] if field.metadata["unit"] and value != "nothing" else ""
        assert f"(default: {value}{unit})" in text
    assert main(["train", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "(default: the recipe's)" in text
    assert "(default: the recipe's, in epochs)" in text
    for words in (["--help"], ["compare", "--help"], ["recipes", "--help"], ["info", "--help"]):
        assert main(words) == 0
        assert capsys.readouterr().out.startswith("usage: trgl")


def test_options_of_every_type_reach_the_recipe() -> None:
    words = ["train", "digits-20x1", "--flip", "--no-shared-head", "--mean", "0.5", "--std", "0.25"]
    words += ["--end-to-end-milestones", "3,5", "--block", "post-activation", "--tau", "1e-2"]
    parsed = vars(build_parser(words).parse_args(words))
    assert parsed["field_flip"] is True
    assert parsed["field_shared_head"] is False
    assert parsed["field_mean"] == (0.5,)
    assert parsed["field_end_to_end_milestones"] == (3, 5)
    assert parsed["field_block"] == "post-activation"
    assert parsed["field_tau"] == 0.01
    assert parsed["field_epochs"] is None


def test_seeds_and_methods() -> None:
    assert seeds("0-4") == [0, 1, 2, 3, 4]
    assert seeds("3") == [3]
    assert seeds("0, 5-6,2") == [0, 5, 6, 2]
    assert methods("vanilla,transport") == ["vanilla", "transport"]
    for wrong in ("", "-1", "1-", "1--2", "1.5"):
        with pytest.raises(argparse.ArgumentTypeError):
            seeds(wrong)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_sees_a_moving_line(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    screen = Terminal()
    display = Display(2, stream=screen)
    for epoch in range(1, 5):
        display.update(Progress("vanilla-seed0", epoch, 4, 0.5 if epoch == 4 else None))
    display.finished("vanilla, seed 0: 50.0 %")
    text = screen.getvalue()
    assert "\r\x1b[K[############............]  50 % 0:04 left  vanilla-seed0: epoch 4 of 4" in text
    assert text.endswith("\r\x1b[Krun 1 of 2, vanilla, seed 0: 50.0 %\n")


def test_a_log_file_sees_a_few_plain_lines() -> None:
    log = io.StringIO()
    display = Display(1, stream=log)
    for epoch in range(1, 201):
        display.update(Progress("vanilla-seed0", epoch, 200, 0.815))
    assert log.getvalue().splitlines() == [
        f"vanilla-seed0: epoch {epoch} of 200, accuracy 81.5 %" for epoch in (50, 100, 150, 200)
    ]


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
