"""How an operator is defined: schema, default kernel, fake implementation.

A default kernel is the reference, so that an operator works on every device; engines register
faster kernels for theirs, and the dispatcher chooses. `with_energy=False` leaves the energy out
(shape (0,)): the variant of a block outside any collector. A backward operator returns an empty
tensor for each gradient that `output_mask` does not ask for.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..reference import memory_format

library = torch.library.Library("trgl", "DEF")  # lives as long as the module


def define(
    schema: str,
    default: Callable[..., Any],
    fake: Callable[..., Any],
) -> None:
    """Defines an operator by its schema, its default kernel and its fake implementation."""
    name = schema.split("(", 1)[0]
    # any layout will do: otherwise torch.compile copies maps into that of the eager run
    library.define(schema, tags=(torch.Tag.pt2_compliant_tag, torch.Tag.flexible_layout))
    library.impl(name, default, "CompositeExplicitAutograd")
    torch.library.register_fake(f"trgl::{name}", fake, lib=library)


def empty(
    like: Tensor,  # [N, C, *]
    dtype: torch.dtype,
    wanted: bool = True,
) -> Tensor:
    """What a kernel returns in the layout of `like`; of shape (0,) where it is not wanted."""
    if not wanted:
        return like.new_empty(0)
    return torch.empty_like(like, dtype=dtype, memory_format=memory_format(like))


def empty_vector(
    z: Tensor,  # [N, C, *]
    parameter: Tensor | None,  # [C]
    wanted: bool,
) -> Tensor:  # [C]
    """The gradient of a parameter that may be None; of shape (0,) where there is none to give."""
    if not wanted or parameter is None:
        return z.new_empty(0)
    return torch.empty_like(parameter, memory_format=torch.contiguous_format)
