"""What is still held when a boundary closes: through the operators, or through Python."""

from collections.abc import Callable, Iterable
from typing import Any, Protocol

import torch
from torch import Tensor

from .counters import Bytes, Held
from .memory import SMALL, native
from .protection import parameters_of_process, python_tensors, storage_keys
from .release import graph_refusal


class Settings(Protocol):
    """What a boundary wants done with what is found."""

    release: bool
    poison: bool


def search(
    scope: Any,
    protected: list[Tensor],
    message: str,
    settings: Settings,
    left: Callable[[], Bytes],
) -> tuple[tuple[Held, ...], int]:
    """Finds what was made inside and is held by others than its owners, and releases it.

    Args:
        scope: csrc/boundary/scope.h, closed.
        protected: never touched, nor what shares storage with them.
        message: of the error that a later touch raises.
        settings: release or only report; poison.
        left: the counters as they are now, less what is protected.

    Returns:
        what was found, and the bytes freed.
    """
    if scope.finds():
        return _through_operators(scope, protected, message, settings)
    return _through_python(scope, protected, message, settings, left)


def _through_operators(
    scope: Any, protected: list[Tensor], message: str, settings: Settings
) -> tuple[tuple[Held, ...], int]:
    owned = set(storage_keys(protected))
    held = [item for item in scope.held() if item[1] > SMALL and item[0] not in owned]
    if held:  # parameters that belong to no module the boundary knows of
        owned |= set(storage_keys(parameters_of_process()))
    found, freed = [], 0
    for key, size, shape, dtype, op, device, address in held:
        if key in owned:
            continue
        refused, released = None, False
        if settings.release:
            refused = (
                scope.refusal_of_held(key) or graph_refusal(torch.device(device), address) or None
            )
            if refused is None:
                freed += scope.release_held(key, message, settings.poison)
                released = True
        found.append(Held(size, tuple(shape), dtype, op, refused, released))
    return tuple(found), freed


def _through_python(
    scope: Any,
    protected: list[Tensor],
    message: str,
    settings: Settings,
    left: Callable[[], Bytes],
) -> tuple[tuple[Held, ...], int]:
    """Without the operators: tensors that Python holds, then the graphs behind them.

    On a device it is not known which tensors were made inside, only which graphs.
    """
    memory = native()
    tensors = python_tensors()
    # retained gradients become objects of Python's when somebody asks for them
    tensors += [t.grad for t in tensors if t.retains_grad and t.grad is not None]
    owned = set(storage_keys(protected)) | set(storage_keys(parameters_of_process()))
    found, freed = [], 0
    for tensor, key, made in zip(tensors, storage_keys(tensors), scope.made(tensors), strict=True):
        size = tensor.untyped_storage().nbytes() if made == 1 else 0
        if size <= SMALL or key in owned:
            continue
        owned.add(key)  # each storage once
        refused, released = None, False
        if settings.release:
            refused = memory.refusal(tensor) or None
            if refused is None:
                freed += memory.release(tensor, message, settings.poison)
                released = True
        found.append(Held(size, tuple(tensor.shape), str(tensor.dtype), "", refused, released))
    before = left()
    if settings.release and before.disagree:
        scope.release_graphs(tensors)
        now = left()
        freed += before.unexplained - now.unexplained
        freed += before.device_unexplained - now.device_unexplained
    return tuple(found), freed


def python_storages() -> set[int]:
    """The storages that Python's tensors are of now."""
    return set(storage_keys(python_tensors()))


def found_by_python(before: set[int], protected: Iterable[Tensor]) -> tuple[Held, ...]:
    """Without the extension: what Python holds that it did not hold before. Only reported."""
    seen = before | set(storage_keys(protected)) | {0}
    found = []
    tensors = python_tensors()
    for tensor, key in zip(tensors, storage_keys(tensors), strict=True):
        if key not in seen and not isinstance(tensor, torch.nn.Parameter):
            seen.add(key)
            size = tensor.untyped_storage().nbytes()
            if size > SMALL:
                found.append(
                    Held(
                        size,
                        tuple(tensor.shape),
                        str(tensor.dtype),
                        "",
                        "the compiled extension is not in use",
                    )
                )
    return tuple(found)
