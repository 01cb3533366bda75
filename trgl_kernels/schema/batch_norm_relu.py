"""Schema, default kernel and fake of `batch_norm_relu`, its backward and its output again."""

from torch import Tensor

from .. import gradients, reference
from ..arguments import check_batch_norm_relu
from ..reference import accumulation_dtype
from .define import define, empty, empty_vector


def _default(
    z: Tensor,  # [N, C, *]
    weight: Tensor | None,  # [C]
    bias: Tensor | None,  # [C]
    running_mean: Tensor | None,  # [C]
    running_var: Tensor | None,  # [C]
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    return reference.batch_norm_relu(
        z,
        weight,
        bias,
        running_mean,
        running_var,
        training=training,
        momentum=momentum,
        eps=eps,
    )


def _fake(
    z: Tensor,  # [N, C, *]
    weight: Tensor | None,  # [C]
    bias: Tensor | None,  # [C]
    running_mean: Tensor | None,  # [C]
    running_var: Tensor | None,  # [C]
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    check_batch_norm_relu(z, weight, bias, running_mean, running_var, training, momentum, eps)
    dtype = accumulation_dtype(z)
    mean, rstd = (z.new_empty(z.shape[1], dtype=dtype) for _ in range(2))
    return empty(z, z.dtype), mean, rstd


def _backward_fake(
    grad_y: Tensor,  # [N, C, *]
    z: Tensor,  # [N, C, *]
    weight: Tensor | None,  # [C]
    bias: Tensor | None,  # [C]
    mean: Tensor,  # [C]
    rstd: Tensor,  # [C]
    training: bool,
    output_mask: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        empty(z, z.dtype, output_mask[0]),
        empty_vector(z, weight, output_mask[1]),
        empty_vector(z, bias, output_mask[2]),
    )


def _apply_fake(
    z: Tensor,  # [N, C, *]
    weight: Tensor | None,  # [C]
    bias: Tensor | None,  # [C]
    mean: Tensor,  # [C]
    rstd: Tensor,  # [C]
) -> Tensor:
    return empty(z, z.dtype)


define(
    "batch_norm_relu(Tensor z, Tensor? weight, Tensor? bias, Tensor(a!)? running_mean, "
    "Tensor(b!)? running_var, bool training, float momentum, float eps) "
    "-> (Tensor y, Tensor mean, Tensor rstd)",
    _default,
    _fake,
)
define(
    "batch_norm_relu_backward(Tensor grad_y, Tensor z, Tensor? weight, Tensor? bias, Tensor mean, "
    "Tensor rstd, bool training, bool[3] output_mask) "
    "-> (Tensor grad_z, Tensor grad_weight, Tensor grad_bias)",
    gradients.batch_norm_relu_backward,
    _backward_fake,
)
define(
    "batch_norm_relu_apply(Tensor z, Tensor? weight, Tensor? bias, Tensor mean, Tensor rstd) "
    "-> Tensor y",
    reference.batch_norm_relu_apply,
    _apply_fake,
)
