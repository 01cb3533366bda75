"""`batch_norm_residual_energy_backward` on the kernels of batch_norm_gradient.py."""

import torch
from torch import Tensor

from .. import gradients, launch
from ..arguments import check_batch_norm_residual_energy_backward
from ..reference import memory_format
from .batch_norm_gradient import backward_kernel, backward_sums
from .runtime import dense, on_device, run_flat, step, supported, vector


def backward(
    grad_y: Tensor | None,  # [N, C, *]
    grad_energy: Tensor | None,  # [N]
    z: Tensor,  # [N, C, *]
    y: Tensor | None,  # [N, C, *], only with a ReLU
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
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # [N, C, *], [N, C, *], [C], [C]
    """`trgl::batch_norm_residual_energy_backward`."""
    check_batch_norm_residual_energy_backward(
        grad_y, grad_energy, z, y, weight, bias, mean, rstd, keep
    )
    layout = memory_format(z)
    v = launch.view(z.shape, layout != torch.contiguous_format, 1)
    if not supported(v, z.dtype, x_dtype):
        return gradients.batch_norm_residual_energy_backward(
            grad_y,
            grad_energy,
            z,
            y,
            weight,
            bias,
            mean,
            rstd,
            training,
            activation,
            keep,
            p,
            x_dtype,
            output_mask,
        )
    wants_z, wants_x = output_mask[:2]
    wants_weight = output_mask[2] and weight is not None
    wants_bias = output_mask[3] and bias is not None
    z, grad_y = z.contiguous(memory_format=layout), dense(grad_y, layout)
    y = None if grad_y is None else dense(y, layout)
    grad_z = torch.empty_like(z) if wants_z else z.new_empty(0)
    grad_x = torch.empty_like(z, dtype=x_dtype) if wants_x else z.new_empty(0)
    grad_weight, grad_bias = z.new_empty(0), z.new_empty(0)
    sum_h = sum_hz = None
    steps = (step(grad_energy), step(keep))
    parameters = (vector(weight), vector(bias), mean.contiguous(), rstd.contiguous(), keep)
    itemsize = torch.promote_types(z.dtype, x_dtype).itemsize
    with on_device(z):
        if (training and wants_z) or wants_weight or wants_bias:
            # masked once, the gradient of x replaces that of y and y itself: one map less to read
            masked = wants_x and grad_y is not None and y is not None and x_dtype == grad_y.dtype
            sum_h, sum_hz = backward_sums(
                v,
                itemsize,
                (grad_y, grad_energy, z, y, *parameters),
                steps,
                grad_x if masked else None,
                p,
            )
            if wants_weight and weight is not None:
                grad_weight = sum_hz.to(weight.dtype)
            if wants_bias and bias is not None:
                grad_bias = sum_h.to(bias.dtype)
            if masked:
                grad_y, y, wants_x = grad_x, None, False
        if wants_z or wants_x:
            settings = launch.flat(v, itemsize)
            run_flat(
                backward_kernel,
                v,
                settings,
                grad_y,
                grad_energy,
                z,
                y,
                *parameters,
                grad_x if wants_x else None,
                grad_z if wants_z else None,
                sum_h if training else None,
                sum_hz if training else None,
                *steps,
                1.0 / v.values,
                P=p,
                RECTIFY=False,
            )
    return grad_z, grad_x, grad_weight, grad_bias
