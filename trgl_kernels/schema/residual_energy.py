"""Schema, default kernel and fake of `residual_energy` and its backward.

`recover` is a wish that only autograd reads: to keep x and y for backward, which their owners hold
anyway, and take keep·scale·r as y − x. It is granted where that is exact to the last places of x
and y (no ReLU, p = 2, x and r both float32 or both float64) and r is not needed for a gradient of
`scale`; elsewhere r is kept as without it.
"""

import torch
from torch import Tensor

from .. import gradients, reference
from ..arguments import check_residual_energy, check_residual_energy_backward
from ..reference import accumulation_dtype
from .define import define, empty, empty_vector


def _default(
    x: Tensor,  # [N, C, *]
    r: Tensor,  # [N, C, *]
    activation: str,
    scale: Tensor | None,  # [C]
    keep: Tensor | None,  # [N]
    p: float,
    with_energy: bool,
    _recover: bool,
) -> tuple[Tensor, Tensor]:
    return reference.residual_energy(
        x, r, activation=activation, scale=scale, keep=keep, p=p, with_energy=with_energy
    )


def _fake(
    x: Tensor,  # [N, C, *]
    r: Tensor,  # [N, C, *]
    activation: str,
    scale: Tensor | None,  # [C]
    keep: Tensor | None,  # [N]
    p: float,
    with_energy: bool,
    _recover: bool,
) -> tuple[Tensor, Tensor]:
    check_residual_energy(x, r, activation, scale, keep, p)
    y = empty(x, torch.promote_types(x.dtype, r.dtype))
    batch = x.shape[0] if with_energy else 0
    return y, x.new_empty(batch, dtype=accumulation_dtype(x, r))


def _backward_fake(
    grad_y: Tensor | None,  # [N, C, *]
    grad_energy: Tensor | None,  # [N]
    y: Tensor | None,  # [N, C, *]
    r: Tensor,  # [N, C, *]
    x: Tensor | None,  # [N, C, *]
    scale: Tensor | None,  # [C]
    keep: Tensor | None,  # [N]
    activation: str,
    p: float,
    x_dtype: torch.dtype,
    output_mask: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    check_residual_energy_backward(grad_y, grad_energy, y, r, x, scale, keep, output_mask)
    return (
        empty(r, x_dtype, output_mask[0]),
        empty(r, r.dtype, output_mask[1]),
        empty_vector(r, scale, output_mask[2]),
    )


define(
    "residual_energy(Tensor x, Tensor r, str activation, Tensor? scale, Tensor? keep, float p, "
    "bool with_energy, bool recover) -> (Tensor y, Tensor energy)",
    _default,
    _fake,
)
define(
    "residual_energy_backward(Tensor? grad_y, Tensor? grad_energy, Tensor? y, Tensor r, "
    "Tensor? x, Tensor? scale, Tensor? keep, str activation, float p, ScalarType x_dtype, "
    "bool[3] output_mask) -> (Tensor grad_x, Tensor grad_r, Tensor grad_scale)",
    gradients.residual_energy_backward,
    _backward_fake,
)
