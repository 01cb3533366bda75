"""One checkpoint: a file of `torch.save` with a seal, read without running any code.

The seal is the comment of the zip archive: the SHA-256 of everything before it. Zip programs and
`torch.load(path, weights_only=True)` read the file as it is.
"""

import hashlib
import os
import pickle
import re
from pathlib import Path
from typing import Any, BinaryIO

import torch

from trgl.accidents import is_full
from trgl.durable import replacing

from .plain import plain

_SEAL = b"trgl checkpoint 1 sha256 "
_SEALED = re.compile(re.escape(_SEAL) + rb"([0-9a-f]{64})")
_SEAL_BYTES = len(_SEAL) + 64
_END_BYTES = 22  # the last record of a zip archive; its last two bytes count those of the comment
_END_MARK = b"PK\x05\x06"
_PIECE = 1 << 20


class DamagedError(ValueError):
    """A file is no checkpoint, or not any more; the message says what is wrong with it."""


def write(path: Path, state: Any) -> None:
    """Writes a checkpoint so that the file is the old one or the new one, and stays after a crash.

    Args:
        path: of the file; its folder exists.
        state: tensors, numbers, texts and collections of them.

    Raises:
        ValueError: the state holds something else.
        OSError: it cannot be written; what was there is as it was.
    """
    content = plain(state)
    with replacing(path) as stream:
        sealing = _Sealing(stream)
        torch.save(content, sealing)  # type: ignore[arg-type]
        sealing.finish()


def read(path: Path) -> Any:
    """The state in a checkpoint, its tensors in main memory.

    Raises:
        DamagedError: the file is cut off, changed, or something else than a checkpoint.
        OSError: it cannot be read.
        MemoryError, RuntimeError: there is no room for it in main memory.
    """
    with open(path, "rb") as stream:
        _check_seal(path, stream)
        stream.seek(0)
        try:
            return torch.load(stream, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise DamagedError(
                f"{path} was not read, because it holds objects that only running code could "
                f"build; a checkpoint of trgl holds none, so somebody else made this file."
            ) from error
        except (OSError, MemoryError):
            raise  # of the machine: the content is what was sealed
        except Exception as error:
            if isinstance(error, RuntimeError) and is_full(error):
                raise
            raise DamagedError(f"{path} cannot be read: {type(error).__name__}: {error}") from error


def _check_seal(path: Path, stream: BinaryIO) -> None:
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    if stream.read(4) != b"PK\x03\x04":
        raise DamagedError(
            f"{path} is empty." if size == 0 else f"{path} is no checkpoint of trgl, or damaged."
        )
    stream.seek(max(0, size - _SEAL_BYTES))
    found = _SEALED.fullmatch(stream.read())
    if found is None:
        raise DamagedError(
            f"{path} does not end with the seal of a checkpoint of trgl: it was cut off, changed, "
            f"or made by another program."
        )
    digest, left = hashlib.sha256(), size - _SEAL_BYTES
    stream.seek(0)
    while left:
        piece = stream.read(min(left, _PIECE))
        if not piece:
            raise DamagedError(f"{path} was cut off while it was read.")
        digest.update(piece)
        left -= len(piece)
    if digest.hexdigest().encode() != found[1]:
        raise DamagedError(f"{path} is damaged: its checksum is not that of its content.")


class _Sealing:
    """Passes on what is written, holding the last bytes back, to put the seal after them.

    Args:
        stream: takes the bytes, in order.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._digest = hashlib.sha256()
        self._tail = b""
        self._error: OSError | None = None

    def write(self, data: memoryview | bytes) -> int:
        """Takes the next bytes."""
        view = memoryview(data).cast("B")
        if len(view) >= _END_BYTES:
            self._pass_on(self._tail)
            self._pass_on(view[:-_END_BYTES])
            self._tail = bytes(view[-_END_BYTES:])
        else:
            tail = self._tail + bytes(view)
            self._pass_on(tail[:-_END_BYTES])
            self._tail = tail[-_END_BYTES:]
        return len(view)

    def flush(self) -> None:
        """Nothing: what is held back is written at the end."""

    def finish(self) -> None:
        """Writes the end and the seal.

        Raises:
            OSError: something could not be written.
        """
        assert self._tail[:4] == _END_MARK
        assert self._tail[-2:] == b"\0\0"
        self._pass_on(self._tail[:-2] + _SEAL_BYTES.to_bytes(2, "little"))
        if self._error is not None:
            raise self._error
        self._stream.write(_SEAL + self._digest.hexdigest().encode())

    def _pass_on(self, data: memoryview | bytes) -> None:
        if self._error is not None:
            return
        self._digest.update(data)
        try:
            self._stream.write(data)
        except OSError as error:  # torch would make a RuntimeError of it
            self._error = error
