"""Schema, default kernel and fake of `displacement_energy` and its backward."""

from torch import Tensor

from .. import gradients, reference
from ..arguments import check_displacement_energy
from ..reference import accumulation_dtype
from .define import define, empty


def _default(
    x: Tensor,  # [N, C, *]
    y: Tensor,  # [N, C, *]
    p: float,
) -> Tensor:
    return reference.displacement_energy(x, y, p=p)


def _fake(
    x: Tensor,  # [N, C, *]
    y: Tensor,  # [N, C, *]
    p: float,
) -> Tensor:
    check_displacement_energy(x, y, p)
    return x.new_empty(x.shape[0], dtype=accumulation_dtype(x, y))


def _backward_fake(
    grad_energy: Tensor,  # [N]
    x: Tensor,  # [N, C, *]
    y: Tensor,  # [N, C, *]
    p: float,
    output_mask: list[bool],
) -> tuple[Tensor, Tensor]:
    return empty(x, x.dtype, output_mask[0]), empty(x, y.dtype, output_mask[1])


define(
    "displacement_energy(Tensor x, Tensor y, float p) -> Tensor energy",
    _default,
    _fake,
)
define(
    "displacement_energy_backward(Tensor grad_energy, Tensor x, Tensor y, float p, "
    "bool[2] output_mask) -> (Tensor grad_x, Tensor grad_y)",
    gradients.displacement_energy_backward,
    _backward_fake,
)
