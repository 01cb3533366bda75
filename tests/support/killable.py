"""Runs commands of `trgl` in processes that are forked from one that has imported everything.

A line of JSON on stdin is a command: a list of words, the first of them a file for what it says.
The answer is the number of the process; that to another line its exit code, when it has ended.
"""

from __future__ import annotations

import json
import os
import sys

import torch

torch.set_num_threads(1)  # no threads: else a fork could wait for one that is not there

import trgl.report.picture  # noqa: E402, F401  (what a run imports late)
from trgl.cli import main, train  # noqa: E402, F401
from trgl.data import load  # noqa: E402


def serve() -> None:
    load("digits")
    print("ready", flush=True)
    for line in sys.stdin:
        log, *words = json.loads(line)
        child = os.fork()
        if child == 0:
            handle = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
            os.dup2(handle, 1)
            os.dup2(handle, 2)
            os.close(0)
            code = 70
            try:
                code = main(words)
            finally:
                sys.stdout.flush()
                os._exit(code)
        print(child, flush=True)
        sys.stdin.readline()  # until then the process is there, whatever has become of it
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    serve()
