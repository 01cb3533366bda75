"""Every storage that lives while code runs on tensors without data, and the peak of their bytes."""

import sys
import weakref
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

# on a CPU, in torch 2.15: a second map beside the gradient of the input
_A_MAP_WITHIN = (torch.ops.aten.native_batch_norm_backward.default,)


class LiveBytes(TorchDispatchMode):
    """Follows the storages of tensors without data from their making to their end.

    Enter it inside the `FakeTensorMode` in which the code runs. What an operator allocates and
    frees within itself, such as a library's scratch, is not seen; where torch's own operators do so
    with a whole map, it is added.

        with fakes.mode, LiveBytes([x, labels]) as live:
            step(x, labels)
        live.peak(without=[p.grad for p in parameters])

    Args:
        present: tensors that live already when it is entered.

    Attributes:
        events: (number of the storage, bytes made if positive or freed if negative), in order.
    """

    def __init__(self, present: Iterable[Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.events: list[tuple[int, int]] = []
        self._numbers: dict[int, int] = {}  # of the storages that live, by address
        self._made = 0
        for tensor in present:
            self._see(tensor)

    def number(self, tensor: Tensor) -> int | None:
        """The number of the tensor's storage in `events`; None where it was never seen."""
        return self._numbers.get(tensor.untyped_storage()._cdata)

    def peak(
        self,
        without: Sequence[Tensor] = (),
        start: int = 0,
        stop: int | None = None,
    ) -> int:
        """The most bytes that were alive at a time.

        Args:
            without: tensors, alive still, whose storages do not count, from their making on.
            start: position in `events` from which on the peak is sought; what lived before counts.
            stop: position at which the search ends; None is the end.
        """
        excluded = {self.number(tensor) for tensor in without}
        live = peak = 0
        for position, (number, size) in enumerate(self.events[:stop]):
            if position == start:
                peak = live
            if number not in excluded:
                live += size
            peak = max(peak, live)
        return peak

    def _see(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        address = storage._cdata
        if address in self._numbers:
            return
        number, self._made = self._made, self._made + 1
        self._numbers[address] = number
        self.events.append((number, storage.nbytes()))
        weakref.finalize(storage, self._end, address, number, storage.nbytes()).atexit = False

    def _end(self, address: int, number: int, size: int) -> None:
        if self._numbers.get(address) == number:
            del self._numbers[address]
        self.events.append((number, -size))

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Runs the operator and sees what it made."""
        if func is torch.ops.aten.add.Tensor and _accumulates(*args[:2], **(kwargs or {})):
            func = torch.ops.aten.add_.Tensor
        result = func(*args, **(kwargs or {}))
        for value in tree_iter(result):
            if isinstance(value, Tensor) and type(value) is not Tensor:
                self._see(value)
        if func in _A_MAP_WITHIN and args[0].device.type == "cpu":
            number, self._made = self._made, self._made + 1
            size = args[0].untyped_storage().nbytes()
            self.events += [(number, size), (number, -size)]
        return result


def _accumulates(total: Any, gradient: Any, alpha: float = 1) -> bool:
    """Whether autograd adds a gradient to one that nobody else holds.

    It does so in place, but refuses to with tensors that are subclasses, as those without data are.
    (`_use_count` is missing in the types that torch 2.14 ships, but not in torch.)
    """
    return (
        torch._C._current_graph_task_id() != -1  # in a backward pass
        and not torch.is_grad_enabled()
        and isinstance(total, Tensor)
        and isinstance(gradient, Tensor)
        and (total.shape, total.dtype, alpha) == (gradient.shape, gradient.dtype, 1)
        and sys.getrefcount(total) <= _ALONE_OBJECT
        and total._use_count() <= _ALONE  # type: ignore[attr-defined, unused-ignore]
        and torch._C._storage_Use_Count(total.untyped_storage()._cdata) <= _ALONE_STORAGE
        and total.untyped_storage().nbytes() == total.numel() * total.element_size()
    )


# holders of a sum of gradients as a dispatch mode sees it in torch 2.15: autograd's buffer, the
# call on its way through the dispatcher, Python's object; of its storage; of that object
_ALONE, _ALONE_STORAGE, _ALONE_OBJECT = 4, 2, 4
