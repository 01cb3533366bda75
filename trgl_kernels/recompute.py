"""A block's branch without its inner activation: BN, ReLU and convolution as one function.

    out = conv(a),   a = relu(BN(z))

Autograd keeps a because the convolution's weight gradient reads it. This function keeps z, which
BN's own gradient needs anyway, and builds a again from z and BN's two vectors, bit by bit the same:
one element-wise pass, no convolution runs twice, and BN's statistics are touched once.
"""

from typing import Any

import torch
from torch import Tensor, nn

from .autograd.twin import asked, refuse_double_backward
from .ordinary import autocast_dtype, batch_norm_arguments, customized

_Geometry = tuple[list[int], list[int], list[int], int]  # stride, padding, dilation, groups


class _Convolution(torch.autograd.Function):
    """conv(active), which saves z instead of `active` and has the gradients of both layers."""

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
        geometry: _Geometry,
    ) -> Tensor:  # [N, C', H', W']
        ctx.save_for_backward(z, bn_weight, bn_bias, mean, rstd, weight)
        ctx.training = training
        ctx.geometry = geometry
        ctx.has_bias = bias is not None
        return torch.conv2d(active, weight, bias, *geometry)

    @staticmethod
    def backward(
        ctx: Any,
        grad: Tensor,  # [N, C', H', W']
    ) -> Any:
        refuse_double_backward("batch_norm_relu")
        z, bn_weight, bn_bias, mean, rstd, weight = ctx.saved_tensors
        wants = [ctx.needs_input_grad[i] for i in (0, 1, 2)]
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
                grad_active.to(z.dtype),
                z,
                bn_weight,
                bn_bias,
                mean,
                rstd,
                ctx.training,
                wants,
            )
            found = [asked(g, wanted) for g, wanted in zip(gradients, wants, strict=True)]
        return (
            *found,
            None,
            None,
            None,
            asked(grad_weight, wants_weight),
            asked(grad_bias, wants_bias),
            None,
            None,
        )


def rebuilds(conv: nn.Module) -> bool:
    """Whether `conv` is an ordinary Conv2d that `batch_norm_relu_convolution` can stand in for.

    Any stride, dilation, groups, bias and padding with zeros, except for padding="same" where it is
    not the same on both sides.
    """
    return (
        type(conv) is nn.Conv2d
        and not customized(conv)
        and conv.padding_mode == "zeros"
        and _padding(conv) is not None
    )


def batch_norm_relu_convolution(
    z: Tensor,  # [N, C, H, W]
    bn: nn.Module,
    conv: nn.Module,
) -> Tensor:  # [N, C', H', W']
    """conv(relu(bn(z))), for which autograd keeps z and not what enters the convolution.

    Args:
        z: what enters BN, [N, C, H, W], float32, float64, bfloat16 or float16, any layout.
        bn: an ordinary BatchNorm2d (see `ordinary.fusible`); it counts the batch and updates its
            running statistics once.
        conv: an ordinary Conv2d (see `rebuilds`).

    Returns:
        [N, C', H', W'], of the type that the convolution gives, under autocast too.

    Raises:
        ValueError: shapes or types that the operator `batch_norm_relu` refuses.
        RuntimeError: in a backward pass that is recorded itself (create_graph=True).
    """
    assert isinstance(conv, nn.Conv2d)
    bn_weight, bn_bias, running_mean, running_var, training, momentum, eps = batch_norm_arguments(
        bn, z
    )
    with torch.no_grad():  # its gradient is the function's
        active, mean, rstd = torch.ops.trgl.batch_norm_relu.default(
            z, bn_weight, bn_bias, running_mean, running_var, training, momentum, eps
        )
    weight, bias = conv.weight, conv.bias
    dtype = autocast_dtype(z)
    if dtype is not None:  # as autocast would, but where autograd sees it
        active, weight = _cast(active, dtype), _cast(weight, dtype)
        bias = None if bias is None else _cast(bias, dtype)
    padding = _padding(conv)
    assert padding is not None
    geometry = (list(conv.stride), padding, list(conv.dilation), conv.groups)
    out: Tensor = _Convolution.apply(
        z, bn_weight, bn_bias, mean, rstd, active, weight, bias, training, geometry
    )
    return out


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Autocast leaves float64 alone."""
    return tensor if tensor.dtype == torch.float64 else tensor.to(dtype)


def _padding(conv: nn.Conv2d) -> list[int] | None:
    """Padding per dimension; None where the two sides differ."""
    if not isinstance(conv.padding, str):
        return list(conv.padding)
    if conv.padding == "valid":
        return [0, 0]
    total = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
    return None if any(t % 2 for t in total) else [t // 2 for t in total]
