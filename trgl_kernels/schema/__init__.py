"""The operators as PyTorch knows them, one file each; importing this defines them."""

from . import (
    batch_norm_relu,
    batch_norm_relu_convolution,
    batch_norm_residual_energy,
    displacement_energy,
    residual_energy,
    residual_energy_layer_norm,
    total_energy,
)

__all__ = [
    "batch_norm_relu",
    "batch_norm_relu_convolution",
    "batch_norm_residual_energy",
    "displacement_energy",
    "residual_energy",
    "residual_energy_layer_norm",
    "total_energy",
]
