"""A head without its activations: its forward pass runs again in backward."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.checkpoint import checkpoint

from trgl_kernels import collect
from trgl_kernels.ordinary import hooked


def recomputed(
    head: nn.Module,
    features: Tensor,  # [N, *]
) -> Tensor:  # [N, classes]
    """The logits of a head of which autograd keeps nothing but the features.

    logits = head(features), computed once more in backward from the same features

    The second run draws what the first one drew, under the same autocast, and on copies of the
    head's buffers, so that running statistics move once: gradients and buffers are those of
    `head(features)`, bit by bit. A head with hooks on it or on one of its layers is called as it
    is, and keeps its activations: its hooks would run twice. Inside torch.compile, the second run
    is a request to the partitioner.

    Args:
        head: leaves the features as they are, and has no state but parameters and buffers.
        features: [N, *], what the head takes; they cross to the next module anyway.
    """
    if not torch.is_grad_enabled() or any(hooked(layer) for layer in head.modules()):
        logits: Tensor = head(features)
    elif torch.compiler.is_compiling():  # which functionalizes the buffers itself
        logits = checkpoint(head, features, use_reentrant=False)
    else:
        before = _Buffers(head)
        again = _Again(before)
        logits = checkpoint(
            head, features, use_reentrant=False, context_fn=lambda: (nullcontext(), again)
        )
    return logits


def recomputing(
    recompute_heads: bool | int,
    modules: int,
) -> list[bool]:
    """Which of the modules 1 to K recompute their head.

    Args:
        recompute_heads: all of them, none, or the first so many, 0 to K.
        modules: K.

    Raises:
        ValueError: a number out of that range, or something else.
    """
    if isinstance(recompute_heads, bool):
        return [recompute_heads] * modules
    if not isinstance(recompute_heads, Integral) or not 0 <= recompute_heads <= modules:
        raise ValueError(
            f"recompute_heads must be True, False, or how many of the {modules} modules recompute "
            f"their heads, from the first one on, but got {recompute_heads!r}. Use True for all."
        )
    return [number <= recompute_heads for number in range(1, modules + 1)]


class _Buffers:
    """The buffers of a head as they were before it ran.

    Args:
        head: about to run for the first time.
    """

    def __init__(self, head: nn.Module) -> None:
        # one copy for each buffer, however many layers hold it; None where any copy serves: what a
        # normalization computes in training does not depend on the statistics that it tracks
        self._before: list[tuple[nn.Module, str, Tensor, Tensor | None]] = []
        copies: dict[int, Tensor] = {}
        for layer in head.modules():
            tracks = isinstance(layer, _NormBase) and type(layer).__module__.startswith("torch.nn.")
            for name, buffer in layer._buffers.items():
                if buffer is None:
                    continue
                if not tracks and id(buffer) not in copies:
                    copies[id(buffer)] = buffer.detach().clone()
                self._before.append((layer, name, buffer, copies.get(id(buffer))))

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Inside, the head has copies of them, which are thrown away."""
        now = [(layer._buffers, name, layer._buffers[name]) for layer, name, _, _ in self._before]
        for layer, name, buffer, copy in self._before:
            layer._buffers[name] = (buffer.detach() if copy is None else copy).clone()
        try:
            with collect.no_energy():
                yield
        finally:
            for buffers, name, held in now:
                buffers[name] = held


class _Again(AbstractContextManager[None]):
    """A scope with the buffers restored that can be entered for each backward pass.

    Args:
        buffers: of the head.
    """

    def __init__(self, buffers: _Buffers) -> None:
        self._buffers = buffers
        self._open: list[AbstractContextManager[None]] = []

    def __enter__(self) -> None:
        scope = self._buffers.restored()
        scope.__enter__()
        self._open.append(scope)

    def __exit__(self, *error: Any) -> None:
        self._open.pop().__exit__(*error)
