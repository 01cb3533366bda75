"""What the twins share."""

import torch
from torch import Tensor


def refuse_double_backward(op: str, instead: str | None = None) -> None:
    """Raises in a backward pass that is recorded itself; `instead` is what can be recorded."""
    # left alone, the second derivative would silently be zero
    if torch.is_grad_enabled():
        raise RuntimeError(
            f"trgl::{op}: its backward has no derivative of its own; "
            "received a backward pass with create_graph=True. Use "
            f"{instead or f'trgl_kernels.reference.{op}'}, which PyTorch can differentiate twice."
        )


def asked(gradient: Tensor, wanted: bool) -> Tensor | None:
    """The gradient as autograd takes it: None where it is not wanted."""
    return gradient if wanted else None


def count_changes(*statistics: Tensor | None) -> None:
    """Counts a change of each tensor: autograd finds saved ones that were overwritten."""
    for statistic in statistics:
        if statistic is not None and not statistic.is_inference():
            torch.autograd.graph.increment_version(statistic)
