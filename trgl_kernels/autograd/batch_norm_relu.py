"""The Python twin of csrc/autograd/batch_norm_relu.cpp."""

from typing import Any

import torch
from torch import Tensor

from .twin import asked, count_changes, refuse_double_backward


class _Function(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        z: Tensor,  # [N, C, *]
        weight: Tensor | None,  # [C]
        bias: Tensor | None,  # [C]
        running_mean: Tensor | None,  # [C]
        running_var: Tensor | None,  # [C]
        training: bool,
        momentum: float,
        eps: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        with torch._C._AutoDispatchBelowAutograd():
            y, mean, rstd = torch.ops.trgl.batch_norm_relu.default(
                z, weight, bias, running_mean, running_var, training, momentum, eps
            )
        ctx.save_for_backward(z, weight, bias, mean, rstd)
        ctx.training = training
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(mean, rstd)
        return y, mean, rstd

    @staticmethod
    def backward(
        ctx: Any,
        grad_y: Tensor | None,
        _grad_mean: Tensor | None,
        _grad_rstd: Tensor | None,
    ) -> Any:
        refuse_double_backward("batch_norm_relu")
        if grad_y is None:
            return (None,) * 8
        z, weight, bias, mean, rstd = ctx.saved_tensors
        wanted = list(ctx.needs_input_grad[:3])
        gradients = torch.ops.trgl.batch_norm_relu_backward.default(
            grad_y, z, weight, bias, mean, rstd, ctx.training, wanted
        )
        return *map(asked, gradients, wanted), *[None] * 5


def apply(*args: Any) -> Any:
    """The operator with its gradient."""
    outputs = _Function.apply(*args)
    if args[5]:
        count_changes(*args[3:5])
    return outputs
