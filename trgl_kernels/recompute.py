"""A block's branch without its inner activation: BN, ReLU and convolution as one function.

    out = conv(a),   a = relu(BN(z))

Autograd keeps a because the convolution's weight gradient reads it. This function keeps z, which
BN's own gradient needs anyway, and builds a again from z and BN's two vectors, bit by bit the same:
one element-wise pass, no convolution runs twice, and BN's statistics are touched once.
"""

import torch
from torch import Tensor, nn

from .ordinary import autocast_dtype, batch_norm_arguments, customized


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
    out: Tensor = torch.ops.trgl._batch_norm_relu_convolution.default(
        z,
        bn_weight,
        bn_bias,
        mean,
        rstd,
        active,
        weight,
        bias,
        training,
        conv.stride,
        padding,
        conv.dilation,
        conv.groups,
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
