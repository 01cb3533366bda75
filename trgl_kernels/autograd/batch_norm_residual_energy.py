"""The Python twin of csrc/autograd/batch_norm_residual_energy.cpp."""

from typing import Any

import torch
from torch import Tensor

from .twin import asked, count_changes, refuse_double_backward


class _Function(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
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
        with torch._C._AutoDispatchBelowAutograd():
            y, energy, mean, rstd = torch.ops.trgl.batch_norm_residual_energy.default(
                z,
                x,
                weight,
                bias,
                running_mean,
                running_var,
                training,
                momentum,
                eps,
                activation,
                keep,
                p,
                with_energy,
            )
        ctx.save_for_backward(
            z, y if activation == "relu" else None, weight, bias, mean, rstd, keep
        )
        ctx.options = (training, activation, p, x.dtype)
        ctx.set_materialize_grads(False)
        if with_energy:
            ctx.mark_non_differentiable(mean, rstd)
        else:
            ctx.mark_non_differentiable(mean, rstd, energy)
        return y, energy, mean, rstd

    @staticmethod
    def backward(
        ctx: Any,
        grad_y: Tensor | None,
        grad_energy: Tensor | None,
        _grad_mean: Tensor | None,
        _grad_rstd: Tensor | None,
    ) -> Any:
        refuse_double_backward("batch_norm_residual_energy")
        z, y, weight, bias, mean, rstd, keep = ctx.saved_tensors
        training, activation, p, x_dtype = ctx.options
        wants_z, wants_x, wants_weight, wants_bias = ctx.needs_input_grad[:4]
        wants_x = wants_x and grad_y is not None  # the energy does not depend on x
        passes = activation == "none" and grad_y is not None and grad_y.dtype == x_dtype
        grad_z, grad_x, grad_weight, grad_bias = (
            torch.ops.trgl.batch_norm_residual_energy_backward.default(
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
                [wants_z, wants_x and not passes, wants_weight, wants_bias],
            )
        )
        if passes:
            grad_x = grad_y
        return (
            asked(grad_z, wants_z),
            asked(grad_x, wants_x),
            asked(grad_weight, wants_weight),
            asked(grad_bias, wants_bias),
            *[None] * 9,
        )


def apply(*args: Any) -> Any:
    """The operator with its gradient."""
    outputs = _Function.apply(*args)
    if args[6]:
        count_changes(*args[4:6])
    return outputs
