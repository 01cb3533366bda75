"""Wrong input and failures: one paragraph, an exit code, and no traceback."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
import pytest

from trgl.cli import main


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "required: COMMAND"),
        (["fly"], "invalid choice: 'fly'"),
        (["train"], "needs a RECIPE, such as digits-20x1 (trgl recipes lists them), or --resume"),
        (["compare"], "needs a RECIPE, such as digits-20x1"),
        (["train", "mine.py"], "trgl: :NAME is missing behind mine.py"),
        (["train", "digits-20x1", "--network", "mine.py"], "trgl: :NAME is missing behind mine.py"),
        (["memory", "mine.py"], "trgl: :NAME is missing behind mine.py"),
        (["train", "digits-20x1", "--network", "resnt18"], "Did you mean resnet18? Also near: "),
        (["memory", "resnt18"], "Did you mean resnet18? Also near: "),
        (["memory", "nope"], "no model 'nope'. `trgl memory --help` says which there are"),
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
        (["train", "digits-20x1", "--head", "mlp", "--batch-size", "1"], "--batch-size 1"),
        (["train", "digits-20x1", "--taus", "0.1,0.5"], "trgl train takes one, received 0.1,0.5"),
        (
            ["train", "digits-20x1", "--optimizer", "adamw", "--momentum", "0.5"],
            "--momentum has no effect with --optimizer adamw, received 0.5",
        ),
        (
            ["train", "digits-20x1", "--multiplier-growth", "2"],
            "--multiplier-growth has no effect with --weighting fixed, received 2",
        ),
        (
            ["compare", "digits-20x1", "--weighting", "multipliers", "--tau", "1"],
            "--tau has no effect with --weighting multipliers, received 1",
        ),
        (
            ["train", "digits-20x1", "--network", "vgg11", "--encoder", "stem", "--filters", "8"],
            "--filters has no effect with --network vgg11, received 8",
        ),
        (
            ["train", "digits-20x1", "--method", "end-to-end", "--learning-rate", "0.5"],
            "--learning-rate has no effect with --method end-to-end, received 0.5",
        ),
        (
            ["train", "digits-20x1", "--method", "vanilla", "--tau", "3"],
            "--tau has no effect with --method vanilla, received 3",
        ),
        (
            ["train", "digits-20x1", "--end-to-end-epochs", "5"],
            "--end-to-end-epochs has no effect with --method transport, received 5",
        ),
        (["train", "digits-20x1", "--traceback"], "trgl --traceback train"),
        (["train", "digits-20x1", "--modules", "0"], "modules must be at least 1"),
        (["train", "digits-20x1", "--modules", "99999999999"], "must be at most 10,000"),
        (["train", "digits-20x1", "--train-size", "5"], "--train-size 5"),
        (["train", "digits-20x1", "--train-size", "5000"], "1000 there"),
        (["train", "digits-20x1", "--validation-size", "50"], "must leave training images"),
        (["train", "digits-20x1", "--data", "somewhere"], "part of scikit-learn"),
        (["train", "digits-20x1", "--data", "none.npz"], "none.npz: there is no such file"),
        (["train", "digits-20x1", "--device", "abacus"], "--device must be cpu, cuda or one of"),
        (["train", "digits-20x1", "--device", "mps"], "--device must be cpu, cuda or one of"),
        (["train", "digits-20x1", "--device", "cuda:-5"], "--device must name a device"),
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
        (["train", "digits-20x1", "--lr=1"], "Did you mean --learning-rate?"),
        (["trian"], "Did you mean train?"),
        (["train", "digits-20x1", "--regime", "paralel"], "Did you mean parallel?"),
        (["compare", "digits-20x1", "--jobs", "0"], "from 1 on"),
        (
            ["train", "cifar10-resnet18-k4", "--modules", "9", "--data", "{npz}"],
            "8 blocks, but 9 modules",
        ),
        (["memory", "vgg11", "--input-shape", "3x8x8"], "Output size is too small. Check --input"),
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
    assert len(captured.err) < 600 + len(" ".join(words))  # no wall of names
    assert sorted(os.listdir()) == ["file.gz", "small.npz"]


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
