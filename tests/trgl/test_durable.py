"""Files that are whole or not there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from trgl.durable import append_whole, write_atomically


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "summary.json"
    write_atomically(path, b"old")

    def fail(handle: int) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="disk full"):
            write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["summary.json"]
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o644


def test_what_cannot_be_appended_as_a_whole_is_not_appended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "metrics.jsonl"
    file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    write = os.write

    def short(handle: int, content: bytes) -> int:
        """A disk with room for three bytes more."""
        if len(content) <= 3:
            raise OSError(28, "No space left on device")
        return write(handle, content[:-3])

    append_whole(file, b"first\n", path)
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", short)
        with pytest.raises(OSError, match=r"No space left.*metrics\.jsonl"):
            append_whole(file, b"second\n", path)
    assert path.read_bytes() == b"first\n"
    append_whole(file, b"third\n", path)
    os.close(file)
    assert path.read_bytes() == b"first\nthird\n"
