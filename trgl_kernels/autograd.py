"""The Python twin of csrc/autograd: registered only when the compiled extension is absent.

Each function saves what its backward operator reads and nothing else, asks that operator for the
gradients that autograd wants, and refuses to be differentiated twice.
"""

from typing import Any

import torch
from torch import Tensor

DOUBLE_BACKWARD = (
    "trgl::{op}: its backward has no derivative of its own; received a backward pass with "
    "create_graph=True. Use trgl_kernels.reference.{op}, which PyTorch can differentiate twice."
)


def _refuse_double_backward(op: str) -> None:
    # left alone, the second derivative would silently be zero
    if torch.is_grad_enabled():
        raise RuntimeError(DOUBLE_BACKWARD.format(op=op))


def _asked(gradient: Tensor, wanted: bool) -> Tensor | None:
    return gradient if wanted else None


class _ResidualEnergy(torch.autograd.Function):
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
    ) -> tuple[Tensor, Tensor]:
        with torch._C._AutoDispatchBelowAutograd():
            y, energy = torch.ops.trgl.residual_energy.default(
                x, r, activation, scale, keep, p, with_energy
            )
        # r is read for the energy and for scale; behind a ReLU the output has its shape and type
        relu = activation == "relu"
        reads_r = with_energy or scale is not None or not relu or r.dtype != y.dtype
        ctx.save_for_backward(y if relu else None, r if reads_r else y, scale, keep)
        ctx.options = (activation, p, x.dtype)
        ctx.set_materialize_grads(False)
        if not with_energy:
            ctx.mark_non_differentiable(energy)
        return y, energy

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor | None, grad_energy: Tensor | None) -> Any:
        _refuse_double_backward("residual_energy")
        y, r, scale, keep = ctx.saved_tensors
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
            _asked(grad_x, wants_x),
            _asked(grad_r, wants_r),
            None,
            _asked(grad_scale, wants_scale),
            None,
            None,
            None,
        )


class _BatchNormResidualEnergy(torch.autograd.Function):
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
        _refuse_double_backward("batch_norm_residual_energy")
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
            _asked(grad_z, wants_z),
            _asked(grad_x, wants_x),
            _asked(grad_weight, wants_weight),
            _asked(grad_bias, wants_bias),
            *[None] * 9,
        )


def _residual_energy(*args: Any) -> Any:
    return _ResidualEnergy.apply(*args)


def _batch_norm_residual_energy(*args: Any) -> Any:
    running = args[4:6]
    outputs = _BatchNormResidualEnergy.apply(*args)
    if args[6]:
        for statistic in running:
            if statistic is not None and not statistic.is_inference():
                torch.autograd.graph.increment_version(statistic)
    return outputs


def register() -> torch.library.Library:
    """Registers the twins on the Autograd key; they live as long as the returned library."""
    library = torch.library.Library("trgl", "IMPL")
    library.impl("residual_energy", _residual_energy, "Autograd")
    library.impl("batch_norm_residual_energy", _batch_norm_residual_energy, "Autograd")
    return library
