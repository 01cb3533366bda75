"""The memory itself: the compiled part, what is live, and what goes back to the system."""

import ctypes
import functools
import os
from typing import Any

import torch
from torch import Tensor

from .. import extension

SMALL = 4096  # bytes; a storage of at most this size stays readable (kSmall of csrc/boundary)


class BoundaryError(ValueError):
    """What was asked of a boundary cannot be done safely; the message says why."""


@functools.cache
def native() -> Any:
    """The compiled functions, counting CPU allocations from now on; None without the extension."""
    if extension.without_boundary() is not None:
        return None
    memory = torch.classes.trgl_boundary.Memory
    if not memory.count():
        return None
    torch.UntypedStorage.is_shared = _is_shared  # type: ignore[assignment]
    return memory


def _is_shared(storage: torch.UntypedStorage) -> bool:
    """`UntypedStorage.is_shared`, which raises on released memory, where torch ends the process."""
    if storage.device.type == "cpu" and storage.nbytes() and not storage.resizable():
        storage[0]
    return bool(_torch_is_shared(storage))


_torch_is_shared = torch.UntypedStorage.is_shared


@functools.cache
def scope_class() -> Any:
    """csrc/boundary/scope.h, kept: looking it up takes longer than making one; None as `native`."""
    return None if native() is None else torch.classes.trgl_boundary.Scope


def cuda_index(parameter: Tensor | None) -> int:
    """The CUDA device to count on, -1 for none: that of a parameter, or else the current one."""
    if parameter is not None:
        device = parameter.device
        return (device.index or 0) if device.type == "cuda" else -1
    return torch.cuda.current_device() if torch.cuda.is_initialized() else -1


def absence() -> str:
    """Why there are no compiled functions, and what to do."""
    reason = extension.without_boundary()
    if reason is None:
        return "the CPU's memory is not torch's own, and cannot be counted"
    return f"{reason}. Remedy: {extension.load().remedy or extension.rebuild()}"


def live_bytes() -> int:
    """Bytes of all live CPU storages that were allocated since the first boundary or this call.

    Raises:
        BoundaryError: the compiled extension is not in use.
    """
    if native() is None:
        raise BoundaryError(f"live_bytes needs the compiled extension, but {absence()}.")
    return int(native().live())


def trim() -> int:
    """Returns what allocators hold and nobody uses: malloc's to the system, CUDA's to the driver.

    Slow (milliseconds; on CUDA it waits for the device), and undone by the next allocations: for
    the moment before another program or another phase needs the memory.

    Returns:
        bytes given back, as the system (resident memory) and the driver count them; 0 on a system
        without malloc_trim.
    """
    returned = 0
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        reserved = sum(map(torch.cuda.memory_reserved, range(torch.cuda.device_count())))
        torch.cuda.empty_cache()
        reserved -= sum(map(torch.cuda.memory_reserved, range(torch.cuda.device_count())))
        returned += reserved
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        before = resident_bytes()
        malloc_trim(0)
        returned += max(0, before - resident_bytes())
    return returned


def resident_bytes() -> int:
    """Resident memory of this process, as Linux counts it; 0 elsewhere."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
