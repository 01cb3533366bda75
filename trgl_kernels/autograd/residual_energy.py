"""The Python twin of csrc/autograd/residual_energy.cpp."""

from typing import Any

import torch
from torch import Tensor

from .twin import asked, refuse_double_backward


class _Function(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,  # [N, C, *]
        r: Tensor,  # [N, C, *]
        activation: str,
        scale: Tensor | None,  # [C]
        keep: Tensor | None,  # [N]
        p: float,
        with_energy: bool,
        recover: bool,
    ) -> tuple[Tensor, Tensor]:
        with torch._C._AutoDispatchBelowAutograd():
            y, energy = torch.ops.trgl.residual_energy.default(
                x, r, activation, scale, keep, p, with_energy, recover
            )
        # r is read for the energy and for scale; behind a ReLU the output has its shape and type
        relu = activation == "relu"
        reads_r = with_energy or scale is not None or not relu or r.dtype != y.dtype
        recovers = (
            recover
            and not relu
            and p == 2.0
            and x.dtype == r.dtype
            and x.dtype in (torch.float32, torch.float64)
            and not (scale is not None and scale.requires_grad)
        )
        ctx.save_for_backward(
            y if relu else None,
            r if reads_r and not recovers else y,
            x if with_energy and recovers else None,
            scale,
            keep,
        )
        ctx.options = (activation, p, x.dtype)
        ctx.set_materialize_grads(False)
        if not with_energy:
            ctx.mark_non_differentiable(energy)
        return y, energy

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor | None, grad_energy: Tensor | None) -> Any:
        refuse_double_backward("residual_energy")
        y, r, x, scale, keep = ctx.saved_tensors
        activation, p, x_dtype = ctx.options
        wants_x, wants_r, _, wants_scale = ctx.needs_input_grad[:4]
        wants_x = wants_x and grad_y is not None  # the energy does not depend on x
        # without an activation the gradient of x is the output's, as it is
        passes = activation == "none" and grad_y is not None and grad_y.dtype == x_dtype
        grad_x, grad_r, grad_scale = torch.ops.trgl.residual_energy_backward.default(
            grad_y,
            grad_energy,
            y,
            r,
            x,
            scale,
            keep,
            activation,
            p,
            x_dtype,
            [wants_x and not passes, wants_r, wants_scale],
        )
        if passes:
            grad_x = grad_y
        return (
            asked(grad_x, wants_x),
            asked(grad_r, wants_r),
            None,
            asked(grad_scale, wants_scale),
            None,
            None,
            None,
            None,
        )


def apply(*args: Any) -> Any:
    """The operator with its gradient."""
    return _Function.apply(*args)
