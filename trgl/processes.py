"""Processes that start without hearing an interrupt, and end when they are meant to."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess

PATIENCE_SECONDS = 120.0  # for a step and a save


@contextlib.contextmanager
def interrupts_held() -> Iterator[None]:
    """Hold SIGINT back; a process that is started here never sees one, not even at its imports.

    A terminal's Ctrl-C goes to the whole group: this process decides, and terminates the others.
    """
    resource_tracker.ensure_running()  # starting it later would let the signals through
    came: list[int] = []
    main = threading.current_thread() is threading.main_thread()
    # The mask is for the child, which inherits it; here another thread may take the signal.
    handler = signal.getsignal(signal.SIGINT)
    if main:
        signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if main:
            signal.signal(signal.SIGINT, handler)
        if came:
            signal.raise_signal(signal.SIGINT)


def stop(workers: Sequence[BaseProcess]) -> None:
    """Let the processes finish their step, save and end; an interrupt meanwhile kills them."""
    alive = [worker for worker in workers if worker.pid is not None and worker.is_alive()]
    for worker in alive:
        worker.terminate()
    until = time.monotonic() + PATIENCE_SECONDS
    try:
        for worker in alive:
            worker.join(max(0.0, until - time.monotonic()))
    finally:
        for worker in alive:
            if worker.is_alive():
                worker.kill()
            worker.join()


def leave(number: int, frame: object) -> None:
    """A signal handler of a process that is started: it ends as if it had been asked to."""
    raise SystemExit(128 + number)


def follow_parent() -> None:
    """Waits for the end of the process that started this one, and ends this one with it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
