"""The boundaries that are open in this thread."""

import threading
from typing import Protocol

from torch import Tensor


class Open(Protocol):
    """What others need of a boundary that is open."""

    name: str

    def check_own(self, tensors: tuple[Tensor, ...]) -> None:
        """Refuses what was not made inside, or is meant to outlive it."""


class _Stack(threading.local):
    def __init__(self) -> None:
        self.boundaries: tuple[Open, ...] = ()  # innermost last; replaced, never changed


_stack = _Stack()


def innermost() -> Open | None:
    """The innermost boundary that is open in this thread."""
    return _stack.boundaries[-1] if _stack.boundaries else None


def push(boundary: Open) -> None:
    """Opens one inside the others."""
    _stack.boundaries = (*_stack.boundaries, boundary)


def pop(boundary: Open) -> bool:
    """Closes the innermost one; False, and nothing, where that is another."""
    if innermost() is not boundary:
        return False
    _stack.boundaries = _stack.boundaries[:-1]
    return True
