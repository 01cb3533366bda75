"""The Python twin of csrc/autograd/displacement_energy.cpp."""

from typing import Any

import torch
from torch import Tensor

from .twin import asked, refuse_double_backward


class _Function(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,  # [N, C, *]
        y: Tensor,  # [N, C, *]
        p: float,
    ) -> Tensor:
        ctx.save_for_backward(x, y)
        ctx.p = p
        ctx.set_materialize_grads(False)
        with torch._C._AutoDispatchBelowAutograd():
            energy: Tensor = torch.ops.trgl.displacement_energy.default(x, y, p)
        return energy

    @staticmethod
    def backward(ctx: Any, grad_energy: Tensor | None) -> Any:
        refuse_double_backward("displacement_energy")
        if grad_energy is None:
            return None, None, None
        x, y = ctx.saved_tensors
        wants_x, wants_y, _ = ctx.needs_input_grad
        grad_x, grad_y = torch.ops.trgl.displacement_energy_backward.default(
            grad_energy, x, y, ctx.p, [wants_x, wants_y]
        )
        return asked(grad_x, wants_x), asked(grad_y, wants_y), None


def apply(*args: Any) -> Any:
    """The operator with its gradient."""
    return _Function.apply(*args)
