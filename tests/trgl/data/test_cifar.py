"""CIFAR: what the published files hold, and that nothing in a file is ever run."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_sets import snapshot, write_cifar
from torchvision import datasets

from trgl import data


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_every_pickle_protocol_is_read(tmp_path: Path, name: str, protocol: int) -> None:
    folder = write_cifar(tmp_path, name, protocol=protocol)
    before = snapshot(tmp_path)
    loaded = data.load(name, tmp_path)
    classes = 10 if name == "cifar10" else 100
    assert loaded.input_shape == (3, 32, 32)
    assert loaded.num_classes == classes
    assert loaded.y_test.tolist() == list(range(classes))
    assert loaded.note.endswith("The files are not the published ones.")
    draws = np.random.default_rng(0)  # the first that were written
    first = draws.integers(0, 256, (classes, 3072), dtype=np.uint8)
    assert torch.equal(loaded.x_train[:classes], torch.from_numpy(first).view(-1, 3, 32, 32))
    assert len(loaded.x_train) == classes * (5 if name == "cifar10" else 1)
    assert torch.equal(data.load(name, folder).x_train, loaded.x_train)  # the folder itself
    assert snapshot(tmp_path) == before


def test_torchvision_reads_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar(tmp_path)
    monkeypatch.setattr(datasets.CIFAR10, "_check_integrity", lambda _: True)
    monkeypatch.setattr(datasets.CIFAR10, "_load_meta", lambda _: None)
    theirs = datasets.CIFAR10(tmp_path)
    ours = data.load("cifar10", tmp_path)
    assert torch.equal(ours.x_train, torch.from_numpy(theirs.data).permute(0, 3, 1, 2))
    assert ours.y_train.tolist() == theirs.targets


def test_the_layout_of_python_2_is_read(tmp_path: Path) -> None:
    """Protocol 2 as Python 2 wrote it: arrays of numpy.core, their bytes as str."""
    folder = write_cifar(tmp_path)
    rows = bytes(range(256)) * 12
    minus = b"J\xff\xff\xff\xff"
    kind = (
        b"cnumpy\ndtype\nq\x01U\x02u1K\x00K\x01\x87Rq\x02(K\x03U\x01|NNN" + minus * 2 + b"K\x00tb"
    )
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00\x85U\x01b\x87R"
        b"(K\x01K\x01M\x00\x0c\x86"
        + kind
        + b"\x89T"
        + len(rows).to_bytes(4, "little")
        + rows
        + b"tb"
    )
    path = folder / "data_batch_3"
    path.write_bytes(b"\x80\x02}(U\x04data" + array + b"U\x06labels]K\x07au.")
    loaded = data.load("cifar10", tmp_path)
    assert loaded.y_train[20] == 7
    assert bytes(loaded.x_train[20].flatten().tolist()) == rows


class _Malice:
    """Calls something when it is unpickled."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("place", ["whole", "data", "label", "key"])
@pytest.mark.parametrize("function", [os.mkdir, eval, getattr], ids=["mkdir", "eval", "getattr"])
def test_a_malicious_pickle_executes_nothing(
    tmp_path: Path, place: str, function: Callable[..., object]
) -> None:
    folder = write_cifar(tmp_path)
    trace = tmp_path / "trace"
    arguments = {
        os.mkdir: (str(trace),),
        eval: (f"__import__('os').mkdir({str(trace)!r})",),
        getattr: ("", "join"),
    }[function]
    malice: Any = _Malice(function, *arguments)
    rows = np.zeros((10, 3072), np.uint8)
    content = {
        "whole": malice,
        "data": {"data": malice, "labels": list(range(10))},
        "label": {"data": rows, "labels": [*range(9), malice]},
        "key": {"data": rows, "labels": list(range(10)), "more": malice},
    }[place]
    path = folder / "data_batch_2"
    path.write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(ValueError, match="nothing of it was run") as caught:
        data.load("cifar10", tmp_path)
    assert str(path) in str(caught.value)
    assert not trace.exists()


def _damaged(**changes: object) -> bytes:
    content: dict[str, object] = {
        "data": np.zeros((10, 3072), np.uint8),
        "labels": list(range(10)),
    }
    return pickle.dumps({**content, **changes})


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (_damaged()[:-9], "cannot be read"),
        (_damaged()[:2000], "cannot be read"),
        (b"", "cannot be read"),
        (b"no pickle", "cannot be read"),
        (pickle.dumps([1, 2]), "a dictionary of data"),
        (_damaged(data=np.zeros((10, 3000), np.uint8)), r"uint8 \[N, 3072\]"),
        (_damaged(data=np.zeros((10, 3072), np.float32)), "another type than uint8"),
        (_damaged(data=np.array([None] * 10)), "another type than uint8"),
        (_damaged(data=None), "a dictionary of data"),
        (_damaged(labels=None), "and a list of labels"),
        (_damaged(labels=list(range(9))), "10 images, 9 labels"),
        (_damaged(labels=list(range(1, 11))), "from 0 to 9, received 10"),
        (_damaged(labels=[-1, *range(9)]), "from 0 to 9, received -1"),
        (_damaged(labels=["a", *range(9)]), "from 0 to 9, received 'a'"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, raw: bytes, message: str) -> None:
    path = write_cifar(tmp_path) / "test_batch"
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=message) as caught:
        data.load("cifar10", tmp_path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    path = write_cifar(tmp_path) / "data_batch_4"
    path.unlink()
    with pytest.raises(ValueError, match="the data set is incomplete") as caught:
        data.load("cifar10", tmp_path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_real_cifar(data_folder: Path, name: str) -> None:
    if not any(data_folder.glob(f"{name[:5]}-{name[5:]}-*")):
        pytest.skip(f"{name} is not in {data_folder}")
    loaded = data.load(name, data_folder)
    assert (len(loaded.x_train), len(loaded.x_test)) == (50000, 10000)
    assert "not the published" not in loaded.note
