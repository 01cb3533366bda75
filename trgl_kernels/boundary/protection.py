"""Which tensors a boundary never touches, and which ones Python holds."""

import gc
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.optim import Optimizer
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from ..collect import open_collectors
from .memory import BoundaryError, native

Kind = TypeVar("Kind", nn.Module, Optimizer)


def all_of(what: str, given: object, kind: type[Kind]) -> list[Kind]:
    """The modules or optimizers that a boundary was given.

    Raises:
        BoundaryError: something else was given.
    """
    # a Sequential can be iterated, but its own hooks and buffers belong to it
    if isinstance(given, Iterable) and not isinstance(given, nn.Module | Tensor | str):
        found = list(given)
        if all(isinstance(item, kind) for item in found):
            return found
        given = next(item for item in found if not isinstance(item, kind))
    raise BoundaryError(
        f"{what} must be a sequence of {kind.__module__}.{kind.__name__}; received "
        f"{type(given).__name__}. Put a single one in brackets."
    )


def of_modules(modules: Iterable[nn.Module]) -> Iterator[Tensor]:
    """Parameters, buffers and gradients, as they are now: also what was made lazily."""
    for module in modules:
        for parameter in module.parameters():
            yield from _with_gradient(parameter)
        for buffer in module.buffers():
            yield from parts(buffer)


def of_optimizers(optimizers: Iterable[Optimizer]) -> Iterator[Tensor]:
    """What optimizers step, the gradients, and whatever they remember of them."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                yield from _with_gradient(parameter)
        yield from _tensors_in(vars(optimizer), set())


def of_process() -> Iterator[Tensor]:
    """What others of this process look after: energies that are being collected, and caches."""
    for collector in open_collectors():
        yield from collector.energies
    yield from (t for t in parametrize._cache.values() if t is not None)


def parameters_of_process() -> Iterator[Tensor]:
    """Parameters, leaves that require a gradient, and gradients, whoever holds them.

    Milliseconds.
    """
    # subclasses may refuse to be asked: parameters of lazy modules do
    with torch._C.DisableTorchFunctionSubclass():
        owned = [base for base in map(base_of, python_tensors()) if is_owned(base)]
        owned += [leaf.grad for leaf in owned if leaf.grad is not None]
        owned = [part for tensor in owned for part in parts(tensor)]
    yield from owned


def base_of(tensor: Tensor) -> Tensor:
    """What a tensor is a view of, or itself.

    Of a view that was made under `no_grad` and whose base changed since, PyTorch refuses to say
    whether it is a leaf.
    """
    return tensor if tensor._base is None else tensor._base


def is_owned(base: Tensor) -> bool:
    """Whether a tensor that is no view is a parameter, or a leaf that requires a gradient."""
    return isinstance(base, nn.Parameter) or (base.requires_grad and base.is_leaf)


def python_tensors() -> list[Tensor]:
    """All tensors that are Python objects. Milliseconds."""
    # by their exact types: isinstance asks proxies for their class, and may wake them
    classes, unseen = {Tensor}, [Tensor]
    while unseen:
        new = [kind for kind in unseen.pop().__subclasses__() if kind not in classes]
        classes.update(new)
        unseen += new
    return [thing for thing in gc.get_objects() if type(thing) in classes]


def parts(tensor: Tensor) -> list[Tensor]:
    """The tensors that its memory is in: itself, those of a sparse one, those a subclass wraps."""
    with torch._C.DisableTorchFunctionSubclass():
        if is_traceable_wrapper_subclass(tensor):
            inner = [getattr(tensor, name) for name in tensor.__tensor_flatten__()[0]]
            return [part for wrapped in inner for part in parts(wrapped)]
        if tensor.layout is torch.sparse_coo:
            return [tensor._indices(), tensor._values()]
        if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
            return [tensor.crow_indices(), tensor.col_indices(), tensor.values()]
        if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
            return [tensor.ccol_indices(), tensor.row_indices(), tensor.values()]
    return [tensor]


def storage_keys(tensors: Iterable[Tensor]) -> list[int]:
    """The storage that each tensor is of, as a number; 0 for one without storage."""
    with torch._C.DisableTorchFunctionSubclass():
        if native() is not None:
            keys: list[int] = native().keys(list(tensors))
            return keys
        return [_storage_key(tensor) for tensor in tensors]


def _storage_key(tensor: Tensor) -> int:
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):  # sparse, or a tensor that wraps others
        return 0


def _with_gradient(parameter: Tensor) -> Iterator[Tensor]:
    yield from parts(parameter)
    if parameter.grad is not None:
        yield from parts(parameter.grad)


def _tensors_in(value: Any, seen: set[int]) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield from parts(value)
    elif isinstance(value, Mapping | list | tuple | set | deque) or _has_state(value):
        if id(value) in seen:
            return
        seen.add(id(value))
        if _has_state(value):
            value = vars(value)
        if isinstance(value, Mapping):
            for key in value:  # a state's keys are its parameters
                yield from _tensors_in(key, seen)
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors_in(item, seen)


def _has_state(value: Any) -> bool:
    """Whether it is an object that may hold tensors in its attributes, such as a projector."""
    codes = type | ModuleType | FunctionType | BuiltinFunctionType | MethodType
    return hasattr(value, "__dict__") and not isinstance(value, codes | Tensor | Mapping)


def forget_autocast_copies() -> None:
    """Drops the low-precision copies of weights that an autocast around the boundary keeps.

    They are made again when they are needed, from the weights as they are then.
    """
    if torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
        torch.clear_autocast_cache()
