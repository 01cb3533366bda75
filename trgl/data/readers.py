"""Processes that read image files ahead of whoever iterates over batches of them."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import weakref
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from trgl.data import decode
from trgl.data.decode import ANSWER, COMPLAINT, HEADER, Request, UnreadableImageError

_SCRIPT = Path(__file__).with_name("decode.py")


class ReaderError(OSError):
    """A reader process that ended by itself."""


class _Reader:
    """One process, with at most one request on its way."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        with theirs:
            # A script and a session of its own: nothing of this process is imported again, and a
            # terminal's Ctrl-C is for this process. The end of the socket ends the reader.
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(_SCRIPT), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )

    def ask(self, request: Request) -> None:
        message = json.dumps(vars(request)).encode()
        try:
            self._socket.sendall(HEADER.pack(len(message)) + message)
        except ConnectionError as error:
            raise self._lost() from error

    def answer(self, into: Tensor) -> None:
        """Receives the pixels of the request.

        Raises:
            UnreadableImageError: a file that cannot be used.
            ReaderError: the process is gone.
        """
        header = self._receive(ANSWER.size)
        kind, size = ANSWER.unpack(header)
        if kind == COMPLAINT:
            path, reason = json.loads(self._receive(size))
            raise UnreadableImageError(path, reason)
        left = into.numpy().data.cast("B")
        assert size == len(left)
        while left:
            try:
                count = self._socket.recv_into(left)
            except ConnectionError as error:
                raise self._lost() from error
            if not count:
                raise self._lost()
            left = left[count:]

    def _receive(self, size: int) -> bytes:
        try:
            message = decode.receive(self._socket, size)
        except ConnectionError as error:
            raise self._lost() from error
        if message is None:
            raise self._lost()
        return message

    def _lost(self) -> ReaderError:
        self._process.kill()
        code = self._process.wait()
        return ReaderError(
            f"a process that reads images ended with exit code {code}; -9 mostly means that memory "
            "ran out: use fewer --workers."
        )

    def close(self) -> None:
        self._socket.close()
        self._process.kill()
        self._process.wait()


class Readers:
    """Reads batches of image files, the next ones while one is used.

    Batches come in the order of the requests, whatever the number of processes. These are started
    by the first use, serve all uses that follow, and end with this object.

    Args:
        count: processes; 0 reads in this one, when a batch is asked for.

    Raises:
        ValueError: a negative count.
    """

    def __init__(self, count: int = 0) -> None:
        if not isinstance(count, int) or isinstance(count, bool) or count < 0:
            raise ValueError(
                f"workers must be a whole number of processes, at least 0, received {count!r}."
            )
        self.count = count
        self._hired: list[_Reader] = []
        self._idle: list[list[_Reader]] = []
        self._end = weakref.finalize(self, _close, self._hired)

    def close(self) -> None:
        """End the processes; a later use starts others."""
        self._idle.clear()
        _close(self._hired)
        self._hired.clear()

    def read(self, requests: Iterable[Request], pinned: bool = False) -> Iterator[Tensor]:
        """The pixels of each request, uint8 [N, height, width, 3].

        Args:
            requests: taken as far ahead as there are processes.
            pinned: into memory from which a GPU copies by itself.

        Raises:
            UnreadableImageError: a file that cannot be used.
            ReaderError: a process ended, e.g. for want of memory.
        """
        if not self.count:
            for request in requests:
                batch = _empty(request, pinned)
                flat = torch.frombuffer(bytearray(decode.pixels(request)), dtype=torch.uint8)
                yield batch.copy_(flat.view(batch.shape))
            return
        crew = self._idle.pop() if self._idle else self._hire()
        left = iter(requests)
        busy: deque[tuple[_Reader, Request]] = deque()
        complete = False
        try:
            for reader, request in zip(crew, left, strict=False):
                reader.ask(request)
                busy.append((reader, request))
            while busy:
                reader, request = busy.popleft()
                batch = _empty(request, pinned)
                reader.answer(batch)
                following = next(left, None)
                if following is not None:
                    reader.ask(following)
                    busy.append((reader, following))
                yield batch
            complete = True
        finally:
            if complete:
                self._idle.append(crew)
            else:  # answers are still on their way: nobody may take them for other ones
                _close(crew)
                self._hired[:] = [reader for reader in self._hired if reader not in crew]

    def _hire(self) -> list[_Reader]:
        crew: list[_Reader] = []
        for _ in range(self.count):
            crew.append(_Reader())
            self._hired.append(crew[-1])
        return crew


def _close(readers: list[_Reader]) -> None:
    for reader in readers:
        reader.close()


def _empty(request: Request, pinned: bool) -> Tensor:
    shape = (len(request.paths), request.height, request.width, 3)
    return torch.empty(shape, dtype=torch.uint8, pin_memory=pinned)
