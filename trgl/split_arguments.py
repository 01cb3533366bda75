"""The arguments of `split`, held against their ranges."""

from collections.abc import Sequence
from numbers import Integral

import torch
from torch import nn

from trgl_kernels.blocks.residual import RECOMPUTE

from .body import Unit
from .heads import Head, Shape

ENERGIES = ("residue", "displacement", "module")


def check_arguments(
    model: nn.Module,
    modules: int,
    input_shape: Sequence[int],
    num_classes: int,
    energy: str | None,
    encoder: str | nn.Module | None,
    freeze_encoder: bool,
    recompute: str | None,
    autocast: torch.dtype | None,
    seed: int | None,
) -> Shape:
    """Holds the arguments of `split` against their ranges; returns the shape of an image.

    Raises:
        ValueError: one that is out of its range.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"split takes an nn.Module, but got {type(model).__name__}. Give it the model itself."
        )
    for name, value in (("modules", modules), ("num_classes", num_classes)):
        if not _is_whole(value) or value < 1:
            raise ValueError(
                f"{name} must be a whole number of at least 1, but got {value!r}. Give {name}=1 or "
                f"more."
            )
    several = isinstance(input_shape, Sequence) and not isinstance(input_shape, str)
    if not several or not input_shape or not all(_is_whole(n) and n > 0 for n in input_shape):
        raise ValueError(
            f"input_shape must be that of one image without the batch, such as (3, 32, 32), but "
            f"got {input_shape!r}. Give a tuple of whole numbers of at least 1."
        )
    if autocast not in (None, torch.bfloat16, torch.float16):
        raise ValueError(
            f"autocast must be torch.bfloat16, torch.float16 or None, but got {autocast!r}. Give "
            f"the type that the trainer will be given."
        )
    if seed is not None and not _is_whole(seed):
        raise ValueError(f"seed must be a whole number or None, but got {seed!r}. Give an int.")
    if energy is not None and energy not in ENERGIES:
        raise ValueError(
            f"energy must be one of {', '.join(ENERGIES)}, but got {energy!r}. Leave it out for "
            f"'residue'."
        )
    if recompute is not None and recompute not in RECOMPUTE:
        raise ValueError(
            f"recompute must be one of {', '.join(RECOMPUTE)}, but got {recompute!r}. Leave it out "
            f"for 'activation'."
        )
    if not (encoder is None or isinstance(encoder, nn.Module) or encoder == "stem"):
        raise ValueError(
            f"encoder must be None, 'stem' or an nn.Module, but got {encoder!r}. Use 'stem' for "
            f"the layers in front of the first block."
        )
    if freeze_encoder and encoder is None:
        raise ValueError(
            "freeze_encoder=True needs an encoder, but none is split off. Add encoder='stem', or "
            "pass a module."
        )
    return tuple(int(size) for size in input_shape)


def check_names(units: Sequence[Unit]) -> None:
    """Holds that no layer has the name that the heads of assembled models have.

    Raises:
        ValueError: naming the layer.
    """
    for name, _ in units:
        if name.split(".")[0] == "head":
            raise ValueError(
                f"The name 'head' is kept for the modules' heads, but the model has a layer "
                f"{name!r}. Leave the model's classifier out, or rename the layer."
            )


def head_lists(
    head: Head | Sequence[Head], modules: int, trains: bool
) -> tuple[Head, Head | Sequence[Head]]:
    """The head of module 0 and those of the others.

    Args:
        head: as `split` takes it.
        modules: K.
        trains: module 0 has a head.

    Raises:
        ValueError: a list of another length.
    """
    if isinstance(head, str) or not isinstance(head, Sequence):
        return head, head
    if not trains:
        return "linear", head
    if len(head) != modules + 1:
        raise ValueError(
            f"With an encoder that trains, a list of heads needs {modules + 1} entries, module 0 "
            f"first, but got {len(head)}."
        )
    return head[0], list(head[1:])


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)
