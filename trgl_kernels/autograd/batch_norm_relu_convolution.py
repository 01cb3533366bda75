"""The Python twin of csrc/autograd/batch_norm_relu_convolution.cpp."""

from typing import Any

import torch
from torch import Tensor

from .twin import asked, refuse_double_backward


class _Function(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        z: Tensor,  # [N, C, H, W]
        bn_weight: Tensor | None,  # [C]
        bn_bias: Tensor | None,  # [C]
        mean: Tensor,  # [C]
        rstd: Tensor,  # [C]
        active: Tensor,  # [N, C, H, W]
        weight: Tensor,  # [C', C / groups, kH, kW]
        bias: Tensor | None,  # [C']
        training: bool,
        *geometry: Any,  # stride, padding, dilation, groups
    ) -> Tensor:  # [N, C', H', W']
        ctx.save_for_backward(z, bn_weight, bn_bias, mean, rstd, weight)
        ctx.training, ctx.geometry, ctx.has_bias = training, geometry, bias is not None
        with torch._C._AutoDispatchBelowAutograd():
            return torch.conv2d(active, weight, bias, *geometry)

    @staticmethod
    def backward(
        ctx: Any,
        grad: Tensor,  # [N, C', H', W']
    ) -> Any:
        refuse_double_backward("batch_norm_relu_convolution", "the layers one after the other")
        z, bn_weight, bn_bias, mean, rstd, weight = ctx.saved_tensors
        wants = list(ctx.needs_input_grad[:3])
        wants_weight, wants_bias = ctx.needs_input_grad[6:8]
        if wants_weight:
            active = torch.ops.trgl.batch_norm_relu_apply.default(z, bn_weight, bn_bias, mean, rstd)
            active = active.to(weight.dtype)
        else:  # its values are read for the weight's gradient alone
            active = torch.empty_like(z, dtype=weight.dtype)
        stride, padding, dilation, groups = ctx.geometry
        grad_active, grad_weight, grad_bias = torch.ops.aten.convolution_backward.default(
            grad,
            active,
            weight,
            [weight.shape[0]] if ctx.has_bias else None,
            stride,
            padding,
            dilation,
            False,
            [0, 0],
            groups,
            [any(wants), wants_weight, wants_bias],
        )
        del active
        found: list[Tensor | None] = [None, None, None]
        if any(wants):
            gradients = torch.ops.trgl.batch_norm_relu_backward.default(
                grad_active.to(z.dtype), z, bn_weight, bn_bias, mean, rstd, ctx.training, wants
            )
            found = list(map(asked, gradients, wants))
        convolution = asked(grad_weight, wants_weight), asked(grad_bias, wants_bias)
        return *found, None, None, None, *convolution, *[None] * 5


def apply(*args: Any) -> Any:
    """The operator with its gradient."""
    return _Function.apply(*args)
