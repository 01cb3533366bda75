"""Triton kernel of `batch_norm_relu`, its output again, and its backward.

    y = max(γ·(z − mean)·rstd + β, 0)

z is read for the statistics (statistics.py), then once. The kernels of the gradients are in
batch_norm_gradient.py; they compute the ReLU's mask again, from z.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import gradients, launch, reference
from ..arguments import check_batch_norm_relu, check_batch_norm_relu_backward, check_normalized
from ..reference import memory_format
from .batch_norm_gradient import backward_kernel, backward_sums
from .runtime import on_device, run_flat, supported, vector
from .statistics import batch_statistics, running_statistics
from .tiles import flat_channel, flat_program, normalized, relu, slope_and_bias


@triton.jit
def rectify_kernel(
    z_ptr,  # [N, C, *]
    weight_ptr,  # [C] or None
    bias_ptr,  # [C] or None
    mean_ptr,  # [C]
    rstd_ptr,  # [C]
    y_ptr,  # [N, C, *]
    groups,
    plane,
    width,
    chunks,
    chunk,
    LAST: tl.constexpr,
    WRAP: tl.constexpr,
    ROWS: tl.constexpr,
    VECTOR: tl.constexpr,
):
    """One chunk of one sample."""
    sample, _, first = flat_program(chunks, chunk)
    base = (sample * groups + first) * VECTOR
    column = tl.arange(0, VECTOR)[None, :]
    for start in range(0, chunk, ROWS):
        row = start + tl.arange(0, ROWS)[:, None]
        mask = first + row < groups
        offset = base + row * VECTOR + column
        channel = flat_channel(first, row, column, plane, width, VECTOR, LAST, WRAP)
        z = tl.load(z_ptr + offset, mask, other=0.0).to(tl.float32)
        mean = tl.load(mean_ptr + channel, mask, other=0.0)
        rstd = tl.load(rstd_ptr + channel, mask, other=0.0)
        slope, bias = slope_and_bias(rstd, weight_ptr, bias_ptr, channel, mask)
        tl.store(y_ptr + offset, relu(normalized(z - mean, slope, bias)), mask)


def rectify(
    z: Tensor,  # [N, C, *], dense
    v: launch.View,
    weight: Tensor | None,  # [C]
    bias: Tensor | None,  # [C]
    mean: Tensor,  # [C]
    rstd: Tensor,  # [C]
) -> Tensor:  # [N, C, *]
    """The output, from BN's two vectors."""
    y = torch.empty_like(z)
    settings = launch.flat(v, z.element_size())
    run_flat(rectify_kernel, v, settings, z, vector(weight), vector(bias), mean, rstd, y)
    return y


def forward(
    z: Tensor,  # [N, C, *]
    weight: Tensor | None,  # [C]
    bias: Tensor | None,  # [C]
    running_mean: Tensor | None,  # [C]
    running_var: Tensor | None,  # [C]
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:  # [N, C, *], [C], [C]
    """`trgl::batch_norm_relu`."""
    check_batch_norm_relu(z, weight, bias, running_mean, running_var, training, momentum, eps)
    layout = memory_format(z)
    v = launch.view(z.shape, layout != torch.contiguous_format, 1)
    if not supported(v, z.dtype):
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
    z = z.contiguous(memory_format=layout)
    with on_device(z):
        if training:
            mean, rstd = batch_statistics(z, v, running_mean, running_var, momentum, eps)
        else:
            assert running_mean is not None
            assert running_var is not None
            mean, rstd = running_statistics(running_mean, running_var, eps)
        return rectify(z, v, weight, bias, mean, rstd), mean, rstd


def apply(
    z: Tensor,  # [N, C, *]
    weight: Tensor | None,  # [C]
    bias: Tensor | None,  # [C]
    mean: Tensor,  # [C]
    rstd: Tensor,  # [C]
) -> Tensor:  # [N, C, *]
    """`trgl::batch_norm_relu_apply`."""
    check_normalized("batch_norm_relu_apply", z, weight, bias, mean, rstd)
    layout = memory_format(z)
    v = launch.view(z.shape, layout != torch.contiguous_format, 1)
    if not supported(v, z.dtype):
        return reference.batch_norm_relu_apply(z, weight, bias, mean, rstd)
    z = z.contiguous(memory_format=layout)
    with on_device(z):
        return rectify(z, v, weight, bias, mean.contiguous(), rstd.contiguous())


def backward(
    grad_y: Tensor,  # [N, C, *]
    z: Tensor,  # [N, C, *]
    weight: Tensor | None,  # [C]
    bias: Tensor | None,  # [C]
    mean: Tensor,  # [C]
    rstd: Tensor,  # [C]
    training: bool,
    output_mask: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:  # [N, C, *], [C], [C]
    """`trgl::batch_norm_relu_backward`."""
    check_batch_norm_relu_backward(grad_y, z, weight, bias, mean, rstd)
    layout = memory_format(z)
    v = launch.view(z.shape, layout != torch.contiguous_format, 1)
    if not supported(v, z.dtype):
        return gradients.batch_norm_relu_backward(
            grad_y, z, weight, bias, mean, rstd, training, output_mask
        )
    wants_z = output_mask[0]
    wants_weight = output_mask[1] and weight is not None
    wants_bias = output_mask[2] and bias is not None
    z, grad_y = (t.contiguous(memory_format=layout) for t in (z, grad_y))
    grad_z, grad_weight, grad_bias = (z.new_empty(0) for _ in range(3))
    parameters = (vector(weight), vector(bias), mean.contiguous(), rstd.contiguous())
    # no energy, no output, no keep
    inputs = (grad_y, None, z, None, *parameters, None)
    sum_h = sum_hz = None
    with on_device(z):
        if (training and wants_z) or wants_weight or wants_bias:
            sum_h, sum_hz = backward_sums(
                v, z.element_size(), inputs, (0, 0), None, 2.0, rectify=True
            )
            if wants_weight and weight is not None:
                grad_weight = sum_hz.to(weight.dtype)
            if wants_bias and bias is not None:
                grad_bias = sum_h.to(bias.dtype)
        if wants_z:
            grad_z = torch.empty_like(z)
            run_flat(
                backward_kernel,
                v,
                launch.flat(v, z.element_size()),
                *inputs,
                None,
                grad_z,
                sum_h if training else None,
                sum_hz if training else None,
                0,
                0,
                1.0 / v.values,
                P=2.0,
                RECTIFY=True,
            )
    return grad_z, grad_weight, grad_bias
