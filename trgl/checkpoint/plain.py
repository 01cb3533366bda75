"""What a checkpoint may hold: tensors, numbers, texts, and collections of them."""

from collections import Counter, OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy
import torch
from torch import Tensor, nn

_SIMPLE = (
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    type(None),
    torch.dtype,
    torch.device,
    torch.Size,
)


def plain(value: Any, where: str = "the state") -> Any:
    """The same value, of types that can be read again without running any code.

    Tensors are detached and not copied; NumPy's arrays become tensors and its numbers Python's.

    Args:
        value: dicts, lists, tuples and sets of tensors, arrays, numbers, texts and None.
        where: it was found, for errors.

    Raises:
        ValueError: something else is in it.
    """
    if type(value) in (Tensor, nn.Parameter, nn.Buffer):
        tensor: Tensor = value.detach()
        return tensor
    if type(value) in _SIMPLE:
        return value
    if isinstance(value, numpy.ndarray) and value.dtype.kind in "biufc":
        return torch.from_numpy(numpy.array(value, dtype=_torch_type(value)))
    if isinstance(value, numpy.generic):
        return plain(value.item(), where)
    if isinstance(value, Counter):
        return Counter(dict(value))
    if isinstance(value, Mapping):
        kind = OrderedDict if isinstance(value, OrderedDict) else dict
        return kind((plain(k, where), plain(v, f"{where}[{k!r}]")) for k, v in value.items())
    if type(value) in (list, tuple):
        return type(value)(plain(item, f"{where}[{at}]") for at, item in enumerate(value))
    if type(value) in (set, frozenset):
        return {plain(item, where) for item in value}
    raise ValueError(
        f"A checkpoint holds tensors, numbers, texts and collections of them, so that reading it "
        f"runs no code, but {where} is a {type(value).__module__}.{type(value).__qualname__}. Let "
        f"its owner's state_dict return plain values."
    )


def _torch_type(array: "numpy.ndarray[Any, Any]") -> Any:
    """Its type, or where torch has none the one that holds its values."""
    wider = {"uint16": "int32", "uint32": "int64"}
    return wider.get(array.dtype.name, array.dtype.newbyteorder("="))
