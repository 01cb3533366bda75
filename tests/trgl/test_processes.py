"""Interrupts while processes start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from trgl.processes import interrupts_held


def test_an_interrupt_is_held_back_from_a_process_at_its_start() -> None:
    with interrupts_held():
        masked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        script = "import os, signal; os.kill(os.getpid(), signal.SIGINT); print('alive')"
        child = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert signal.SIGINT in masked
    assert child.stdout == "alive\n"
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_an_interrupt_that_another_thread_takes_is_held_too() -> None:
    free = threading.Event()
    thread = threading.Thread(target=free.wait)  # it blocks no signal
    thread.start()
    reached: list[bool] = []

    def interrupted() -> None:
        with interrupts_held():
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.1)
            reached.append(True)

    try:
        with pytest.raises(KeyboardInterrupt):
            interrupted()
    finally:
        free.set()
        thread.join()
    assert reached
