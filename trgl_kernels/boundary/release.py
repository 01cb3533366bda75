"""release: memory back to its allocator now, and an error for whoever touches the tensor later."""

import torch
from torch import Tensor

from . import opened
from .memory import BoundaryError, absence, native
from .protection import base_of, is_owned, parameters_of_process, storage_keys


def release(
    *tensors: Tensor,  # any shape
    reason: str = "its memory was given back by trgl_kernels.release",
    poison: bool = False,
) -> int:
    """Gives the memory of tensors back to their allocator, whoever still refers to them.

    Any later touch, through any view, alias or graph, raises a RuntimeError with `reason` in it.
    In stream order on CUDA, as if the last reference had gone: memory that another stream uses
    needs `record_stream`, as always. All tensors are released, or none.

    DLPack exports leave no trace on a tensor: whoever has one reads freed memory.

    Args:
        tensors: of any type, on CPU or CUDA. Views stand for their whole storage.
        reason: what the later error says, verbatim.
        poison: fill the memory with NaN first, for debugging.

    Returns:
        bytes freed; a storage that was released before counts nothing.

    Raises:
        BoundaryError: a parameter, a leaf that requires a gradient, or what shares its storage;
            inside a boundary, anything that was not made in it or is meant to outlive it; memory
            of NumPy, other foreign memory, shared memory, the memory of a CUDA graph; or the
            compiled extension is not in use.
    """
    if not isinstance(reason, str) or not reason:
        raise BoundaryError(
            f"release: reason must be a text that says what happened; received {reason!r}. "
            f"Name the module or the step."
        )
    for tensor in tensors:
        if not isinstance(tensor, Tensor):
            raise BoundaryError(
                f"release: only tensors have memory to release; received {type(tensor).__name__}. "
                f"Pass its tensors one by one."
            )
    memory = native()
    if memory is None:
        raise BoundaryError(f"release needs the compiled extension, but {absence()}.")
    with torch._C.DisableTorchFunctionSubclass():  # what is given to compiled code
        _check_leaves(tensors)
        for tensor in tensors:
            refused = memory.refusal(tensor) or graph_refusal(tensor.device, memory.address(tensor))
            if refused:
                raise BoundaryError(
                    f"release: the memory must be one that can be given back safely, but "
                    f"{refused}; received {described(tensor)}. Drop every reference to it instead."
                )
        # without an address: released before, or empty
        _check_own(tuple(tensor for tensor in tensors if memory.address(tensor)))
        return sum(int(memory.release(tensor, reason, poison)) for tensor in tensors)


def described(tensor: Tensor) -> str:
    """For errors."""
    return f"a tensor of shape {list(tensor.shape)} and {tensor.dtype} on {tensor.device}"


def graph_refusal(device: torch.device, address: int) -> str:
    """Why CUDA memory that belongs to a graph cannot be given back; empty for other memory."""
    if device.type != "cuda":
        return ""
    if torch.cuda.is_current_stream_capturing():
        return "a CUDA graph is being captured, which will use the memory again"
    if torch.cuda.get_allocator_backend() != "native":
        return "its allocator does not say whether a CUDA graph will use it again"
    for segment in torch.cuda.memory_snapshot():
        inside = segment["address"] <= address < segment["address"] + segment["total_size"]
        if inside and tuple(segment.get("segment_pool_id", (0, 0))) != (0, 0):
            return "it is in a pool of its own, whose memory a CUDA graph uses again"
    return ""


def check_made_inside(
    name: str, tensors: tuple[Tensor, ...], made: list[int], protected: set[int]
) -> None:
    """Refuses what the step of an open boundary did not make, or what is meant to outlive it.

    Args:
        name: of the boundary.
        tensors: what is to be released.
        made: of each, whether its storage was made inside: 1 yes; 0 no; -1 not known.
        protected: storages that the boundary never touches.

    Raises:
        BoundaryError: naming the tensor.
    """
    for tensor, key, inside in zip(tensors, storage_keys(tensors), made, strict=True):
        why = (
            "existed before it, or was made by another thread"
            if inside == 0
            else "is not known to be made in it: open the boundary with find='always', and "
            "give it a module on that device"
            if inside < 0
            else "is protected: a parameter, buffer or gradient, optimizer state, or what "
            "crosses or is kept"
            if key in protected
            else ""
        )
        if why:
            raise BoundaryError(
                f"release: inside the boundary {name!r} only what its step made is "
                f"released; received {described(tensor)}, which {why}."
            )


def _check_leaves(tensors: tuple[Tensor, ...]) -> None:
    """Refuses parameters, and other leaves that require a gradient."""
    for tensor in tensors:
        if is_owned(base_of(tensor)):
            raise BoundaryError(
                f"release: parameters and leaves that require a gradient are never released, nor "
                f"is what shares their storage; received {described(tensor)}. Detach and clone "
                f"what is to be released."
            )


def _check_own(tensors: tuple[Tensor, ...]) -> None:
    """Refuses what is not the caller's to release."""
    boundary = opened.innermost()
    if boundary is not None:
        boundary.check_own(tensors)
    memory = native()
    # a storage with a single holder is no parameter's; the search takes milliseconds
    shared = [tensor for tensor in tensors if memory.holders(tensor) > 1]
    if shared:
        owned = set(storage_keys(parameters_of_process()))
        for tensor, key in zip(shared, storage_keys(shared), strict=True):
            if key in owned:
                raise BoundaryError(
                    f"release: what shares the storage of a parameter or of a leaf that requires a "
                    f"gradient is never released; received {described(tensor)}. Clone what is to "
                    f"be released."
                )
