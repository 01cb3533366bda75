"""What ends a training: numbers that are not finite, and a device that is full."""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .meter import DivergenceError

_WANTED = re.compile(
    r"[Tt]ried to allocate ([\d.]+ (?:bytes|[KMGT]iB))|you tried to allocate (\d+) bytes"
)
_FREE = re.compile(r"of which ([\d.]+ (?:bytes|[KMGT]iB)) is free")
LATE = 64  # batches between two looks at what a device has counted


class NotFinite(DivergenceError):
    """A loss or a gradient of one module is infinite or NaN; its last update was not done.

    Args:
        number: of the module.
        what: is not finite, in words.
        remedy: in words.
    """

    def __init__(self, number: int, what: str, remedy: str = "") -> None:
        super().__init__(f"Module {number} diverged: {what}. {remedy or _REMEDY}")
        self.number = number
        self.what = what
        self.remedy = remedy or _REMEDY


_REMEDY = (
    "Lower the learning rate, bound the gradients with clip_norm or, with a transport cost, raise "
    "tau."
)


class DeviceMemoryError(RuntimeError):
    """A device has no room for a module's step; the message names the module and what to change.

    Args:
        message: what happened.
        number: of the module.
        updating: the module may be updated in part, because an update was under way that could
            not be taken back; if not, its weights and the state of its optimizer are as they were
            before its step. Running statistics may have seen the batch.
    """

    def __init__(self, message: str, number: int, updating: bool) -> None:
        super().__init__(message)
        self.number = number
        self.updating = updating


class Watch:
    """Watches the losses and gradients of one module.

    On the CPU each is looked at before anything is updated by it. A device only counts, without
    being waited for, and is asked now and then: then updates have been done that are not finite.

    Args:
        number: of the module.
        device: of the module.

    Attributes:
        off: nothing is watched.
    """

    def __init__(self, number: int, device: torch.device) -> None:
        self.number = number
        self.off = False
        self._at_once = device.type == "cpu"
        self._found = torch.zeros((), device=device)
        self._one = torch.ones((), device=device)
        self._sound = torch.zeros((), device=device, dtype=torch.int64)

    def reset(self, done: int = 0) -> None:
        """Begins an epoch, or goes on with one in which so many updates are done."""
        self._found.zero_()
        self._sound.fill_(done)

    def loss(
        self,
        objective: Tensor,  # []
        criterion: Tensor,  # []
        cost: Tensor | None,  # []
        images: Tensor,  # [N, *]
    ) -> None:
        """Looks at the loss of a batch.

        Raises:
            NotFinite: it is infinite or NaN.
        """
        if self.off or not self._at_once or math.isfinite(objective.item()):
            return
        if images.is_floating_point() and not torch.isfinite(images).all():
            what = "the images of the batch hold values that are infinite or NaN"
            raise NotFinite(self.number, what, "Repair the data set, or its normalization.")
        penalty = "" if cost is None else f" and its transport cost {cost.item()}"
        raise NotFinite(self.number, f"its loss is {criterion.item()}{penalty}")

    def gradients(self, parameters: Sequence[nn.Parameter], norm: Tensor | None) -> None:
        """Looks at the gradients before the optimizer does.

        Args:
            parameters: whose gradients are meant.
            norm: of all of them, where it is known.

        Raises:
            NotFinite: one is infinite or NaN.
        """
        if self.off:
            return
        if norm is not None:
            self._found.add_(~torch.isfinite(norm))
        else:
            groups: dict[torch.dtype, list[Tensor]] = {}
            for parameter in parameters:
                gradient = parameter.grad
                if gradient is not None and not gradient.is_sparse:
                    groups.setdefault(gradient.dtype, []).append(gradient)
            for dtype, gradients in groups.items():
                if dtype is torch.bfloat16:  # which the other operator does not take on CUDA
                    sums = torch.stack(torch._foreach_norm(gradients, 1))
                    self._found.add_(~torch.isfinite(sums).all())
                else:  # times one: the values stay as they are
                    torch._amp_foreach_non_finite_check_and_unscale_(
                        gradients, self._found, self._one
                    )
        if not self._at_once:
            self._sound.add_(self._found == 0)
        elif self._found.item():
            raise NotFinite(self.number, "its gradient is infinite or NaN, its loss is not")

    def look(self) -> int | None:
        """Which of the epoch's updates was the first that was not finite, from 1, if one was.

        On the CPU there is none: it would have been an error.
        """
        if self._at_once or not self._found.item():
            return None
        return int(self._sound.item()) + 1


def is_full(error: RuntimeError) -> bool:
    """Whether an error says that memory ran out, of a device or of the machine."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


@contextmanager
def naming_memory(tell: Callable[[RuntimeError], DeviceMemoryError]) -> Iterator[None]:
    """Inside, an error of memory that ran out becomes the one that `tell` makes of it."""
    try:
        yield
    except RuntimeError as error:
        if not is_full(error):
            raise
        raise tell(error) from error


def memory_error(
    error: RuntimeError, number: int, device: torch.device, samples: int, updating: bool
) -> DeviceMemoryError:
    """What to tell about memory that ran out.

    Args:
        error: of PyTorch.
        number: of the module whose step it was.
        device: that is full.
        samples: in the batch.
        updating: the optimizer was at work, and what it did could not be taken back.
    """
    state = (
        "Its optimizer was at work, so that it may be updated in part: go on from a checkpoint."
        if updating
        else "Its weights are as they were before its step; running statistics may have seen the "
        "batch."
    )
    return DeviceMemoryError(
        f"Module {number} has no room for its step on {device}, with batches of "
        f"{samples}{_needed(error)}. {state} Lower the batch size (accumulate keeps the effective "
        f"one), cut the network into more modules, choose balance='memory', or recompute "
        f"activations and heads (recompute, recompute_heads); trgl memory predicts what each of "
        f"them takes.",
        number,
        updating,
    )


def frozen_memory_error(
    error: RuntimeError, number: int, device: torch.device, samples: int
) -> DeviceMemoryError:
    """What to tell about memory that ran out while a batch passed through a frozen module.

    Args:
        error: of PyTorch.
        number: of the module; 0 is the encoder.
        device: that is full.
        samples: in the pass.
    """
    return DeviceMemoryError(
        f"Module {number}, which is frozen, has no room for a pass on {device}, with {samples} "
        f"images at a time{_needed(error)}. No weights were changed. Give chunk, the images that "
        f"frozen modules take at a time, or a smaller one, or lower the batch size.",
        number,
        False,
    )


def _needed(error: RuntimeError) -> str:
    """What was asked for, and what is free, where an allocator says so."""
    wanted, free = _WANTED.search(str(error)), _FREE.search(str(error))
    if wanted is None:
        return ""
    needed = f": another {wanted[1] or f'{int(wanted[2]):,} bytes'} were needed"
    return needed if free is None else f"{needed} where {free[1]} is free"
