"""The Python twin of csrc/autograd/residual_energy_layer_norm.cpp."""

from typing import Any

import torch
from torch import Tensor

from .twin import asked, refuse_double_backward


class _Function(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,  # [N, *, C]
        r: Tensor,  # [N, *, C]
        weight: Tensor | None,  # [C]
        bias: Tensor | None,  # [C]
        eps: float,
        scale: Tensor | None,  # [C]
        keep: Tensor | None,  # [N]
        p: float,
        with_energy: bool,
        recover: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        with torch._C._AutoDispatchBelowAutograd():
            y, normed, energy, mean, rstd = torch.ops.trgl.residual_energy_layer_norm.default(
                x, r, weight, bias, eps, scale, keep, p, with_energy, recover
            )
        wants_r, wants_scale = ctx.needs_input_grad[1], ctx.needs_input_grad[5]
        reads_q = wants_scale or (with_energy and wants_r)
        recovers = (
            recover
            and p == 2.0
            and not wants_scale
            and x.dtype == r.dtype
            and r.dtype in (torch.float32, torch.float64)
        )
        ctx.save_for_backward(
            y,
            r if reads_q and not recovers else None,
            x if reads_q and recovers else None,
            weight,
            bias,
            mean,
            rstd,
            scale,
            keep,
        )
        ctx.options = (p, x.dtype, r.dtype)
        ctx.set_materialize_grads(False)
        if with_energy:
            ctx.mark_non_differentiable(mean, rstd)
        else:
            ctx.mark_non_differentiable(mean, rstd, energy)
        return y, normed, energy, mean, rstd

    @staticmethod
    def backward(
        ctx: Any,
        grad_y: Tensor | None,
        grad_normed: Tensor | None,
        grad_energy: Tensor | None,
        _grad_mean: Tensor | None,
        _grad_rstd: Tensor | None,
    ) -> Any:
        refuse_double_backward("residual_energy_layer_norm")
        y, r, x, weight, bias, mean, rstd, scale, keep = ctx.saved_tensors
        p, x_dtype, r_dtype = ctx.options
        wants_x, wants_r, wants_weight, wants_bias, _, wants_scale = ctx.needs_input_grad[:6]
        normalizes = grad_normed is not None
        wants_weight, wants_bias = wants_weight and normalizes, wants_bias and normalizes
        wants_x = wants_x and (normalizes or grad_y is not None)  # the energy does not depend on x
        # without a normalization the gradient of x is that of y, as it is
        passes = not normalizes and grad_y is not None and grad_y.dtype == x_dtype
        # and that of r is that of x where nothing else is between
        same = grad_energy is None and scale is None and keep is None and x_dtype == r_dtype
        grad_x, grad_r, grad_weight, grad_bias, grad_scale = (
            torch.ops.trgl.residual_energy_layer_norm_backward.default(
                grad_y,
                grad_normed,
                grad_energy,
                y,
                r,
                x,
                weight,
                bias,
                mean,
                rstd,
                scale,
                keep,
                p,
                x_dtype,
                r_dtype,
                [
                    (wants_x or (wants_r and same)) and not passes,
                    wants_r and not same,
                    wants_weight,
                    wants_bias,
                    wants_scale,
                ],
            )
        )
        if passes:
            grad_x = grad_y
        if same:
            grad_r = grad_x
        return (
            asked(grad_x, wants_x),
            asked(grad_r, wants_r),
            asked(grad_weight, wants_weight),
            asked(grad_bias, wants_bias),
            None,
            asked(grad_scale, wants_scale),
            *[None] * 4,
        )


def apply(*args: Any) -> Any:
    """The operator with its gradient."""
    return _Function.apply(*args)
