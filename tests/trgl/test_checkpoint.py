"""Files of checkpoints: damaged, foreign and malicious ones, and disks that take nothing."""

from __future__ import annotations

import errno
import os
import resource
from pathlib import Path
from typing import Any

import pytest
import torch

from trgl.checkpoint import Checkpoints, DamagedError, file, read, write
from trgl.durable import replacing

STATE = {"weights": torch.arange(5000.0), "step": 3, "names": ("a", None, 0.1, 2**70)}


class Malicious:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write(tmp_path / "a.pt", STATE)
    state = read(tmp_path / "a.pt")
    assert torch.equal(state["weights"], STATE["weights"])
    assert state["names"] == STATE["names"]
    assert torch.load(tmp_path / "a.pt", weights_only=True)["step"] == 3
    with pytest.raises(ValueError, match=r"'x'.* is a .*Malicious"):
        write(tmp_path / "b.pt", {"x": Malicious(tmp_path)})
    assert os.listdir(tmp_path) == ["a.pt"]


def test_every_cut_and_every_changed_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    write(path, STATE)
    whole = path.read_bytes()
    for size in (0, 1, 50, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(DamagedError, match=r"a\.pt"):
            read(path)
    for at in range(0, len(whole), len(whole) // 97):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :])
        with pytest.raises(DamagedError, match=r"a\.pt"):
            read(path)
    torch.save(STATE, path)
    with pytest.raises(DamagedError, match="seal"):
        read(path)


def test_a_malicious_file_runs_nothing_even_with_a_seal(tmp_path: Path) -> None:
    mark, path = tmp_path / "ran", tmp_path / "a.pt"
    with replacing(path) as stream:
        sealing = file._Sealing(stream)
        torch.save({"x": Malicious(mark)}, sealing)
        sealing.finish()
    with pytest.raises(DamagedError, match="only running code could build"):
        read(path)
    assert not mark.exists()


@pytest.mark.parametrize(
    "error",
    [
        OSError(5, "Input/output error"),
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
    ],
    ids=["OSError", "MemoryError", "RuntimeError"],
)
def test_a_machine_that_cannot_read_damages_nothing(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = Checkpoints(tmp_path / "c", tell=pytest.fail)
    paths = [checkpoints.save(STATE, step) for step in (1, 2)]

    def fail(*_: object, **__: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(torch, "load", fail)
        with pytest.raises(type(error)):
            checkpoints.load()
    assert sorted((tmp_path / "c").iterdir()) == paths
    found = checkpoints.load()
    assert found is not None
    assert found[0] == paths[1]


def test_the_one_before_a_damaged_one_is_used(tmp_path: Path) -> None:
    told: list[str] = []
    checkpoints = Checkpoints(tmp_path / "c", keep=2, tell=told.append)
    for step in (1, 2, 3):
        checkpoints.save({"step": step}, step)
    newest, before = checkpoints.paths()
    newest.write_bytes(newest.read_bytes()[:-9])
    found = checkpoints.load()
    assert found == (before, {"step": 2})
    assert "step-0000000003.pt" in told[0]
    assert before.name in told[0]
    before.write_bytes(b"")
    with pytest.raises(DamagedError, match=r"No checkpoint in .* is whole"):
        checkpoints.load()


def test_a_number_is_one_of_steps(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path, every=3).every == Checkpoints(tmp_path, every="3").every
    for wrong in (0, 2.5, None):
        with pytest.raises(ValueError, match="how often to save is a number of steps"):
            Checkpoints(tmp_path, every=wrong)


def test_what_cannot_be_written_leaves_the_last_good_one(tmp_path: Path) -> None:
    told: list[str] = []
    checkpoints = Checkpoints(tmp_path / "c", tell=told.append)
    checkpoints.save({"step": 1}, 1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8000, limits[1]))
    try:
        assert checkpoints.try_save(STATE, 2) is None
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "because it cannot be written ([Errno 27] File too large" in told[0]
    assert "step-0000000001.pt" in told[0]
    assert os.listdir(tmp_path / "c") == ["step-0000000001.pt"]
    assert checkpoints.try_save(STATE, 2) is not None  # with room again
    assert checkpoints.error is None


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_is_full_is_called_so(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("trgl.checkpoint.folder.write", refuse)
    told: list[str] = []
    assert Checkpoints(tmp_path / "c", tell=told.append).try_save(STATE, 2) is None
    assert "because the disk is full" in told[0]
    assert "none is there yet" in told[0]
