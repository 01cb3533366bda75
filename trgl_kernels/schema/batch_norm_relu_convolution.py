"""Schema, default kernel and fake of the convolution that keeps what enters the BN before it.

Internal (`recompute.py` calls it). Forward it is PyTorch's conv2d(active) on every device; what it
is for is its gradient, in trgl_kernels/autograd and csrc/autograd.
"""

import torch
from torch import Tensor

from .define import define


def convolution(
    z: Tensor,  # [N, C, H, W]
    bn_weight: Tensor | None,  # [C]
    bn_bias: Tensor | None,  # [C]
    mean: Tensor,  # [C]
    rstd: Tensor,  # [C]
    active: Tensor,  # [N, C, H, W]
    weight: Tensor,  # [C', C / groups, kH, kW]
    bias: Tensor | None,  # [C']
    training: bool,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:  # [N, C', H', W']
    """conv(active), where active = relu(BN(z)) has been computed already."""
    return torch.conv2d(active, weight, bias, stride, padding, dilation, groups)


define(
    "_batch_norm_relu_convolution(Tensor z, Tensor? bn_weight, Tensor? bn_bias, Tensor mean, "
    "Tensor rstd, Tensor active, Tensor weight, Tensor? bias, bool training, int[2] stride, "
    "int[2] padding, int[2] dilation, int groups) -> Tensor",
    convolution,
    convolution,
)
