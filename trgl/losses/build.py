"""Local losses by name or by a callable, one for each module."""

import functools
import inspect
from collections.abc import Callable, Sequence

from torch import nn

from ..heads import Shape
from .reconstruction import reconstruction
from .similarity import similarity

LossBuilder = Callable[[Shape, int, Shape], nn.Module]
Loss = str | LossBuilder

LOSSES: dict[str, LossBuilder] = {"similarity": similarity, "reconstruction": reconstruction}


def build(
    loss: LossBuilder,
    shape: Shape,
    num_classes: int,
    input_shape: Shape,
) -> nn.Module:
    """Builds one local loss for features of `shape`.

    Args:
        loss: a callable `(shape, num_classes, input_shape) -> nn.Module`.
        shape: of the features, without the batch.
        num_classes: of the labels.
        input_shape: of one image.

    Raises:
        ValueError: a callable that does not take these three arguments or does not give an
            `nn.Module`.
    """
    try:
        inspect.signature(loss).bind(shape, num_classes, input_shape)
    except TypeError as error:
        raise ValueError(
            f"A callable for local losses takes (shape, num_classes, input_shape), but got one "
            f"that does not: {error}. Write lambda shape, classes, images: ..."
        ) from None
    module = loss(shape, num_classes, input_shape)
    if not isinstance(module, nn.Module):
        raise ValueError(
            f"A callable for local losses must return an nn.Module, but it returned "
            f"{type(module).__name__} for features {shape}."
        )
    return module


def each(
    loss: Loss | Sequence[Loss | None] | None, modules: int, channels_last: bool = False
) -> list[LossBuilder | None]:
    """What builds the local losses of all modules that train, front to back.

    Args:
        loss: for all of them, or a list of one for each; None is the criterion alone.
        modules: how many train, module 0 included.
        channels_last: features are maps (H, W, C), which the losses of this file are told.

    Raises:
        ValueError: a list of another length, an unknown name, or an entry that is no callable.
    """
    several = not isinstance(loss, str) and isinstance(loss, Sequence)
    entries: Sequence[Loss | None] = loss if several else [loss] * modules  # type: ignore[assignment,list-item]
    if len(entries) != modules:
        raise ValueError(
            f"A list of local losses needs one entry for each module that trains, {modules}, but "
            f"got {len(entries)}. None stands for the criterion alone."
        )
    return [None if entry is None else _builder(entry, channels_last) for entry in entries]


def _builder(loss: Loss, channels_last: bool) -> LossBuilder:
    if isinstance(loss, str) and loss in LOSSES:
        loss = LOSSES[loss]
    if not callable(loss) or isinstance(loss, nn.Module):
        got = repr(loss) if isinstance(loss, str) else type(loss).__name__
        raise ValueError(
            f"A local loss is one of {', '.join(map(repr, LOSSES))} or a callable (shape, "
            f"num_classes, input_shape) -> nn.Module, but got {got}. Wrap a module: lambda shape, "
            f"classes, images: module."
        )
    kind = loss.func if isinstance(loss, functools.partial) else loss
    if channels_last and kind in LOSSES.values():
        return functools.partial(loss, channels_last=True)  # type: ignore[call-arg]
    return loss
