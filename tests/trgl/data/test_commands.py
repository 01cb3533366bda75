"""Commands on images in files: the same figures by any number of processes, and bad data told."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from small_runs import without_times
from tiny_sets import (
    write_cifar,
    write_folders,
    write_image,
    write_mnist,
    write_stl10,
    write_tiny_imagenet,
)

from trgl import recipes
from trgl.cli import main
from trgl.data import load
from trgl.prepare import Task
from trgl.workers import Job, _in_processes

TINY = ["--modules", "2", "--filters", "4", "--head", "linear", "--epochs", "2", "--threads", "1"]
FIXED = ["--mean", "0.5,0.5,0.5", "--std", "0.5,0.5,0.5"]


def trgl(
    command: str, dataset: str, directory: Path, out: Path, *words: object, loud: bool = False
) -> int:
    places = ["--data", str(directory), "--out", str(out), "--dataset", dataset]
    more = ["--train-size", "0", "--evaluate-every", "2", *map(str, words)]
    more += [] if loud else ["--quiet"]
    return main([command, "cifar10-20x1", *places, *TINY, *more])


def test_figures_do_not_depend_on_processes(tmp_path: Path) -> None:
    write_folders(tmp_path / "data", train=5)
    for workers in (0, 3):
        out = tmp_path / str(workers)
        assert trgl("train", "image-folder", tmp_path / "data", out, "--workers", workers) == 0
    alone, ahead = (without_times(tmp_path / str(workers)) for workers in (0, 3))
    assert alone == ahead
    config = json.loads((tmp_path / "3" / "config.json").read_text())
    assert config["data"]["classes"] == 2
    assert config["data"]["image_shape"] == [3, 8, 8]


def test_a_process_of_runs_has_readers_too(tmp_path: Path) -> None:
    write_folders(tmp_path / "data", train=5)
    images = load("image-folder", tmp_path / "data")
    changes = {"modules": 2, "filters": 4, "epochs": 1, "train_size": 0, "workers": 2}
    task = Task(recipes.find("cifar10-20x1").override(changes), "vanilla", 0)
    job = Job(task, tmp_path / "run")
    (summary,) = _in_processes([job], images, 1, lambda _: None, lambda job, summary: None)
    assert summary["state"] == "done"
    assert summary["images"] == {"train": 10, "validation": 0, "test": 4}


@pytest.mark.parametrize(
    ("name", "write", "shape"),
    [
        ("cifar100", lambda place: write_cifar(place, "cifar100"), [3, 16, 16]),
        ("stl10", write_stl10, [3, 16, 16]),
        ("tiny-imagenet", write_tiny_imagenet, [3, 16, 16]),
    ],
)
def test_every_layout_trains(
    tmp_path: Path,
    name: str,
    write: object,
    shape: list[int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert callable(write)
    write(tmp_path / "data")
    out = tmp_path / "run"
    words = ["--image-size", 16, "--workers", 1]
    assert trgl("train", name, tmp_path / "data", out, *words, loud=name[0] == "t") == 0
    told = ", and 12 training images for their mean and standard deviation"
    assert (told in capsys.readouterr().err) == (name == "tiny-imagenet")
    assert json.loads((out / "config.json").read_text())["data"]["image_shape"] == shape
    assert json.loads((out / "summary.json").read_text())["state"] == "done"


class _Malice:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.mkdir, (Path("trace"),)


def _spoil(kind: str, home: Path) -> tuple[str, Path, str]:
    """Makes bad data; returns the data set, the file that is to be named, and what is said."""
    if kind == "corrupt image":
        write_folders(home)
        path = home / "train" / "dog" / "3.png"
        path.write_bytes(path.read_bytes()[:70])
        return "image-folder", path, "no image that can be read"
    if kind == "corrupt test image":
        write_folders(home)
        path = home / "val" / "dog" / "1.png"
        path.write_bytes(path.read_bytes()[:70])
        return "image-folder", path, "no image that can be read"
    if kind == "other size":
        write_folders(home)
        write_image(home / "train" / "dog" / "3.png", 0, (7, 7))
        return "image-folder", home / "train" / "dog" / "3.png", "7x7 pixels"
    if kind == "unreadable file":
        write_folders(home)
        path = home / "train" / "dog" / "3.png"
        path.unlink()
        path.mkdir()
        (path / "4.png").symlink_to(home / "nowhere.png")
        return "image-folder", path / "4.png", "there is no such file"
    if kind == "missing class":
        write_folders(home)
        for path in (home / "train" / "cat").iterdir():
            path.unlink()
        return "image-folder", home / "train" / "cat", "every class needs training images"
    if kind == "wrong layout":
        write_folders(home, test_part="evaluation")
        return "image-folder", home / "test", "there is no such folder"
    if kind == "label out of range":
        path = write_stl10(home) / "test_y.bin"
        path.write_bytes(bytes([1, 2, 3, 4, 99]))
        return "stl10", path, "received 1 to 99"
    if kind == "cut off idx":
        write_mnist(home, packed=False)
        path = home / "t10k-images-idx3-ubyte"
        path.write_bytes(path.read_bytes()[:-5])
        return "mnist", path, "cut off"
    if kind == "cut off npz":
        path = home / "mine.npz"
        home.mkdir()
        np.savez(path, x_train=np.zeros((5, 8, 8), np.uint8))
        path.write_bytes(path.read_bytes()[:100])
        return "cifar10", path, "damaged one"
    path = write_cifar(home) / "data_batch_5"
    if kind == "cut off pickle":
        path.write_bytes(path.read_bytes()[:5000])
        return "cifar10", path, "cannot be read"
    assert kind == "malicious pickle"
    path.write_bytes(pickle.dumps({"data": _Malice()}))
    return "cifar10", path, "nothing of it was run"


@pytest.mark.parametrize(
    "kind",
    [
        "corrupt image",
        "corrupt test image",
        "other size",
        "unreadable file",
        "missing class",
        "wrong layout",
        "label out of range",
        "cut off idx",
        "cut off npz",
        "cut off pickle",
        "malicious pickle",
    ],
)
def test_bad_data_is_named_before_training_starts(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name, path, message = _spoil(kind, tmp_path / "data")
    place = path if path.suffix == ".npz" else tmp_path / "data"
    assert trgl("train", name, place, tmp_path / "run") == 2
    captured = capsys.readouterr()
    assert str(path) in captured.err
    assert message in captured.err
    assert len(captured.err.strip().splitlines()) == 1
    assert captured.out == ""
    assert [entry.name for entry in tmp_path.iterdir()] == ["data"]


def test_bad_data_that_is_met_later_ends_the_run_and_keeps_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home, out = tmp_path / "data", tmp_path / "run"
    write_folders(home)
    path = home / "train" / "dog" / "1.png"
    path.write_bytes(path.read_bytes()[:70])
    # neither statistics nor a frozen encoder, which would read every training image first
    words = [*FIXED, "--encoder", "trained", "--no-shared-head"]
    assert trgl("train", "image-folder", home, out, *words) == 1
    error = capsys.readouterr().err
    assert f"{path}: no image that can be read" in error
    assert f"What was measured until now is in {out}" in error
    assert "Traceback" not in error
    summary = json.loads((out / "summary.json").read_text())
    assert summary["state"] == "failed"
    assert str(path) in summary["reason"]
    assert (out / "config.json").is_file()


def test_a_comparison_goes_on_without_the_run_that_met_bad_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home, out = tmp_path / "data", tmp_path / "all"
    write_folders(home)
    path = home / "train" / "dog" / "1.png"
    path.write_bytes(b"")
    # half of the images, other ones for each seed, and no statistics that read them before
    words = ["--methods", "vanilla", "--seeds", "2-5", "--jobs", "1", *FIXED, "--train-size", "6"]
    words += ["--encoder", "trained", "--no-shared-head"]
    assert trgl("compare", "image-folder", home, out, *words) == 1
    assert f"of 4 runs: {path}" in capsys.readouterr().err
    summaries = [json.loads(path.read_text()) for path in sorted(out.glob("*/summary.json"))]
    states = [summary["state"] for summary in summaries]
    assert sorted(set(states)) == ["done", "failed"]
    assert len(states) == 4
    assert all(str(path) in one["reason"] for one in summaries if one["state"] == "failed")
