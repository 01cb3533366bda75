"""What the twins share."""

import torch
from torch import Tensor

DOUBLE_BACKWARD = (
    "trgl::{op}: its backward has no derivative of its own; received a backward pass with "
    "create_graph=True. Use trgl_kernels.reference.{op}, which PyTorch can differentiate twice."
)


def refuse_double_backward(op: str) -> None:
    """Raises in a backward pass that is recorded itself."""
    # left alone, the second derivative would silently be zero
    if torch.is_grad_enabled():
        raise RuntimeError(DOUBLE_BACKWARD.format(op=op))


def asked(gradient: Tensor, wanted: bool) -> Tensor | None:
    """The gradient as autograd takes it: None where it is not wanted."""
    return gradient if wanted else None
