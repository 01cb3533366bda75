"""Schemas, fake implementations and default kernels of the operators.

A default kernel is the reference, so that an operator works on every device; engines register
faster kernels for theirs, and the dispatcher chooses. `with_energy=False` leaves the energy out
(shape (0,)): the variant of a block outside any collector. A backward operator returns an empty
tensor for each gradient that `output_mask` does not ask for.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import gradients, reference
from .checks import check_batch_norm_residual_energy, check_residual_energy
from .reference import accumulation_dtype, memory_format

library = torch.library.Library("trgl", "DEF")  # lives as long as the module


def _define(
    schema: str,
    default: Callable[..., Any],
    fake: Callable[..., Any],
) -> None:
    name = schema.split("(", 1)[0]
    library.define(schema, tags=torch.Tag.pt2_compliant_tag)
    library.impl(name, default, "CompositeExplicitAutograd")
    torch.library.register_fake(f"trgl::{name}", fake, lib=library)


def _empty(
    like: Tensor,  # [N, C, *]
    dtype: torch.dtype,
    wanted: bool = True,
) -> Tensor:
    if not wanted:
        return like.new_empty(0)
    return torch.empty_like(like, dtype=dtype, memory_format=memory_format(like))


def _residual_energy(
    x: Tensor,  # [N, C, *]
    r: Tensor,  # [N, C, *]
    activation: str,
    scale: Tensor | None,  # [C]
    keep: Tensor | None,  # [N]
    p: float,
    with_energy: bool,
) -> tuple[Tensor, Tensor]:
    return reference.residual_energy(
        x, r, activation=activation, scale=scale, keep=keep, p=p, with_energy=with_energy
    )


def _residual_energy_fake(
    x: Tensor,  # [N, C, *]
    r: Tensor,  # [N, C, *]
    activation: str,
    scale: Tensor | None,  # [C]
    keep: Tensor | None,  # [N]
    p: float,
    with_energy: bool,
) -> tuple[Tensor, Tensor]:
    check_residual_energy(x, r, activation, scale, keep, p)
    y = _empty(x, torch.promote_types(x.dtype, r.dtype))
    batch = x.shape[0] if with_energy else 0
    return y, x.new_empty(batch, dtype=accumulation_dtype(x, r))


def _residual_energy_backward_fake(
    grad_y: Tensor | None,  # [N, C, *]
    grad_energy: Tensor | None,  # [N]
    y: Tensor | None,  # [N, C, *]
    r: Tensor,  # [N, C, *]
    scale: Tensor | None,  # [C]
    keep: Tensor | None,  # [N]
    activation: str,
    p: float,
    x_dtype: torch.dtype,
    output_mask: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    grad_scale = r.new_empty(0)
    if output_mask[2] and scale is not None:
        grad_scale = torch.empty_like(scale, memory_format=torch.contiguous_format)
    return (
        _empty(r, x_dtype, output_mask[0]),
        _empty(r, r.dtype, output_mask[1]),
        grad_scale,
    )


_define(
    "residual_energy(Tensor x, Tensor r, str activation, Tensor? scale, Tensor? keep, float p, "
    "bool with_energy) -> (Tensor y, Tensor energy)",
    _residual_energy,
    _residual_energy_fake,
)
_define(
    "residual_energy_backward(Tensor? grad_y, Tensor? grad_energy, Tensor? y, Tensor r, "
    "Tensor? scale, Tensor? keep, str activation, float p, ScalarType x_dtype, "
    "bool[3] output_mask) -> (Tensor grad_x, Tensor grad_r, Tensor grad_scale)",
    gradients.residual_energy_backward,
    _residual_energy_backward_fake,
)


def _batch_norm_residual_energy(
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


def _batch_norm_residual_energy_fake(
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
        _empty(z, torch.promote_types(z.dtype, x.dtype)),
        z.new_empty(z.shape[0] if with_energy else 0, dtype=dtype),
        z.new_empty(z.shape[1], dtype=dtype),
        z.new_empty(z.shape[1], dtype=dtype),
    )


def _batch_norm_residual_energy_backward_fake(
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
    grad_weight, grad_bias = z.new_empty(0), z.new_empty(0)
    if output_mask[2] and weight is not None:
        grad_weight = torch.empty_like(weight)
    if output_mask[3] and bias is not None:
        grad_bias = torch.empty_like(bias)
    return (
        _empty(z, z.dtype, output_mask[0]),
        _empty(z, x_dtype, output_mask[1]),
        grad_weight,
        grad_bias,
    )


_define(
    "batch_norm_residual_energy(Tensor z, Tensor x, Tensor? weight, Tensor? bias, "
    "Tensor(a!)? running_mean, Tensor(b!)? running_var, bool training, float momentum, float eps, "
    "str activation, Tensor? keep, float p, bool with_energy) "
    "-> (Tensor y, Tensor energy, Tensor mean, Tensor rstd)",
    _batch_norm_residual_energy,
    _batch_norm_residual_energy_fake,
)
_define(
    "batch_norm_residual_energy_backward(Tensor? grad_y, Tensor? grad_energy, Tensor z, Tensor? y, "
    "Tensor? weight, Tensor? bias, Tensor mean, Tensor rstd, bool training, str activation, "
    "Tensor? keep, float p, ScalarType x_dtype, bool[4] output_mask) "
    "-> (Tensor grad_z, Tensor grad_x, Tensor grad_weight, Tensor grad_bias)",
    gradients.batch_norm_residual_energy_backward,
    _batch_norm_residual_energy_backward_fake,
)
