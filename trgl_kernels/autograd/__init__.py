"""The Python twins of csrc/autograd: registered only when the compiled extension is absent.

Each function saves what its backward operator reads and nothing else, asks that operator for the
gradients that autograd wants, and refuses to be differentiated twice.
"""

import torch

from ..schema.total_energy import total_energy
from . import (
    batch_norm_relu,
    batch_norm_relu_convolution,
    batch_norm_residual_energy,
    displacement_energy,
    residual_energy,
    residual_energy_layer_norm,
)

__all__ = ["TWINS", "register"]

TWINS = {
    "residual_energy": residual_energy.apply,
    "batch_norm_relu": batch_norm_relu.apply,
    "_batch_norm_relu_convolution": batch_norm_relu_convolution.apply,
    "batch_norm_residual_energy": batch_norm_residual_energy.apply,
    "residual_energy_layer_norm": residual_energy_layer_norm.apply,
    "displacement_energy": displacement_energy.apply,
    "_total_energy": total_energy,
}


def register() -> torch.library.Library:
    """Registers the twins on the Autograd key; they live as long as the returned library."""
    library = torch.library.Library("trgl", "IMPL")
    for name, function in TWINS.items():
        library.impl(name, function, "Autograd")
    return library
