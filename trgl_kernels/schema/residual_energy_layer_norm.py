"""Schema, default kernel and fake of `residual_energy_layer_norm` and its backward."""

import torch
from torch import Tensor

from .. import gradients, reference
from ..arguments import check_residual_energy_layer_norm
from ..reference import accumulation_dtype
from .define import define


def _default(
    x: Tensor,  # [N, *, C]
    r: Tensor,  # [N, *, C]
    weight: Tensor | None,  # [C]
    bias: Tensor | None,  # [C]
    eps: float,
    scale: Tensor | None,  # [C]
    keep: Tensor | None,  # [N]
    p: float,
    with_energy: bool,
    recover: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return reference.residual_energy_layer_norm(
        x, r, weight, bias, eps=eps, scale=scale, keep=keep, p=p, with_energy=with_energy
    )


def _fake(
    x: Tensor,  # [N, *, C]
    r: Tensor,  # [N, *, C]
    weight: Tensor | None,  # [C]
    bias: Tensor | None,  # [C]
    eps: float,
    scale: Tensor | None,  # [C]
    keep: Tensor | None,  # [N]
    p: float,
    with_energy: bool,
    recover: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    check_residual_energy_layer_norm(x, r, weight, bias, eps, scale, keep, p)
    sums, stored = accumulation_dtype(x, r), torch.promote_types(x.dtype, r.dtype)
    y, normed = (x.new_empty(x.shape, dtype=stored) for _ in range(2))
    mean, rstd = (x.new_empty(x.shape[:-1], dtype=sums) for _ in range(2))
    return y, normed, x.new_empty(x.shape[0] if with_energy else 0, dtype=sums), mean, rstd


def _backward_fake(
    grad_y: Tensor | None,  # [N, *, C]
    grad_normed: Tensor | None,  # [N, *, C]
    grad_energy: Tensor | None,  # [N]
    y: Tensor,  # [N, *, C]
    r: Tensor | None,  # [N, *, C]
    x: Tensor | None,  # [N, *, C]
    weight: Tensor | None,  # [C]
    bias: Tensor | None,  # [C]
    mean: Tensor,  # [N, *]
    rstd: Tensor,  # [N, *]
    scale: Tensor | None,  # [C]
    keep: Tensor | None,  # [N]
    p: float,
    x_dtype: torch.dtype,
    r_dtype: torch.dtype,
    output_mask: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    def vector(like: Tensor | None, wanted: bool) -> Tensor:
        return like.new_empty(like.shape) if wanted and like is not None else y.new_empty(0)

    return (
        y.new_empty(y.shape if output_mask[0] else 0, dtype=x_dtype),
        y.new_empty(y.shape if output_mask[1] else 0, dtype=r_dtype),
        vector(weight, output_mask[2]),
        vector(bias, output_mask[3]),
        vector(scale, output_mask[4]),
    )


define(
    "residual_energy_layer_norm(Tensor x, Tensor r, Tensor? weight, Tensor? bias, float eps, "
    "Tensor? scale, Tensor? keep, float p, bool with_energy, bool recover) "
    "-> (Tensor y, Tensor normed, Tensor energy, Tensor mean, Tensor rstd)",
    _default,
    _fake,
)
define(
    "residual_energy_layer_norm_backward(Tensor? grad_y, Tensor? grad_normed, "
    "Tensor? grad_energy, Tensor y, Tensor? r, Tensor? x, Tensor? weight, Tensor? bias, "
    "Tensor mean, Tensor rstd, Tensor? scale, Tensor? keep, float p, ScalarType x_dtype, "
    "ScalarType r_dtype, bool[5] output_mask) -> (Tensor grad_x, Tensor grad_r, "
    "Tensor grad_weight, Tensor grad_bias, Tensor grad_scale)",
    gradients.residual_energy_layer_norm_backward,
    _backward_fake,
)
