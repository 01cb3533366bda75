"""Schema, default kernel and fake of `batch_norm_residual_energy` and its backward."""

import torch
from torch import Tensor

from .. import gradients, reference
from ..arguments import check_batch_norm_residual_energy
from ..reference import accumulation_dtype
from .define import define, empty, empty_vector


def _default(
    z: Tensor,  # [N, C, *]
    x: Tensor,  # [N, C, *]
    weight: Tensor | None,  # [C]
    bias: Tensor | None,  # [C]
    running_mean: Tensor | None,  # [C]
    running_var: Tensor | None,  # [C]
    training: bool,
    momentum: float,
    eps: float,
    activation: str,
    keep: Tensor | None,  # [N]
    p: float,
    with_energy: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return reference.batch_norm_residual_energy(
        z,
        x,
        weight,
        bias,
        running_mean,
        running_var,
        training=training,
        momentum=momentum,
        eps=eps,
        activation=activation,
        keep=keep,
        p=p,
        with_energy=with_energy,
    )


def _fake(
    z: Tensor,  # [N, C, *]
    x: Tensor,  # [N, C, *]
    weight: Tensor | None,  # [C]
    bias: Tensor | None,  # [C]
    running_mean: Tensor | None,  # [C]
    running_var: Tensor | None,  # [C]
    training: bool,
    momentum: float,
    eps: float,
    activation: str,
    keep: Tensor | None,  # [N]
    p: float,
    with_energy: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    check_batch_norm_residual_energy(
        z, x, weight, bias, running_mean, running_var, training, momentum, eps, activation, keep, p
    )
    dtype = accumulation_dtype(z, x)
    return (
        empty(z, torch.promote_types(z.dtype, x.dtype)),
        z.new_empty(z.shape[0] if with_energy else 0, dtype=dtype),
        z.new_empty(z.shape[1], dtype=dtype),
        z.new_empty(z.shape[1], dtype=dtype),
    )


def _backward_fake(
    grad_y: Tensor | None,  # [N, C, *]
    grad_energy: Tensor | None,  # [N]
    z: Tensor,  # [N, C, *]
    y: Tensor | None,  # [N, C, *]
    weight: Tensor | None,  # [C]
    bias: Tensor | None,  # [C]
    mean: Tensor,  # [C]
    rstd: Tensor,  # [C]
    training: bool,
    activation: str,
    keep: Tensor | None,  # [N]
    p: float,
    x_dtype: torch.dtype,
    output_mask: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (
        empty(z, z.dtype, output_mask[0]),
        empty(z, x_dtype, output_mask[1]),
        empty_vector(z, weight, output_mask[2]),
        empty_vector(z, bias, output_mask[3]),
    )


define(
    "batch_norm_residual_energy(Tensor z, Tensor x, Tensor? weight, Tensor? bias, "
    "Tensor(a!)? running_mean, Tensor(b!)? running_var, bool training, float momentum, float eps, "
    "str activation, Tensor? keep, float p, bool with_energy) "
    "-> (Tensor y, Tensor energy, Tensor mean, Tensor rstd)",
    _default,
    _fake,
)
define(
    "batch_norm_residual_energy_backward(Tensor? grad_y, Tensor? grad_energy, Tensor z, Tensor? y, "
    "Tensor? weight, Tensor? bias, Tensor mean, Tensor rstd, bool training, str activation, "
    "Tensor? keep, float p, ScalarType x_dtype, bool[4] output_mask) "
    "-> (Tensor grad_z, Tensor grad_x, Tensor grad_weight, Tensor grad_bias)",
    gradients.batch_norm_residual_energy_backward,
    _backward_fake,
)
