"""Files and directories that survive a crash, and that nobody ever sees in part.

A whole file is replaced atomically: a temporary file beside it, fsync, rename, and fsync of the
directory.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A stream whose content replaces a file when the context ends without an error.

    Until then the old content stays; afterwards the new one is on the disk to stay.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(name)
        if isinstance(error, OSError) and error.errno is not None and error.filename is None:
            error.filename = str(path)  # a write knows only a number
        raise
    sync_directory(path.parent)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old content or the new one, never a part."""
    with replacing(path) as stream:
        stream.write(content)


def append_whole(file: int, content: bytes, path: Path) -> None:
    """Append to an open file; the content is on the disk when this returns.

    Args:
        file: its descriptor.
        content: to append.
        path: of the file, for errors.

    Raises:
        OSError: it cannot be written; then nothing of it is there.
    """
    before = os.fstat(file).st_size
    try:
        while content:
            content = content[os.write(file, content) :]
        os.fsync(file)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.ftruncate(file, before)  # no torn line in front of the next one
        if error.filename is None:
            error.filename = str(path)
        raise


def make(path: Path) -> None:
    """Make a directory and those above it, so that they survive a crash."""
    new = [place for place in (path, *path.parents) if not place.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"a run needs a directory that can be made, but {path} cannot: {error.strerror}; "
            f"choose another --out."
        ) from error
    for place in new:
        sync_directory(place.parent)


def sync_directory(directory: Path) -> None:
    """Holds that a name made or removed in a directory is on the disk to stay."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
