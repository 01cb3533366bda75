"""The Triton engine: kernels that answer for CUDA tensors.

float32, bfloat16 and float16; float64 and empty tensors are answered by the reference. Importing
this package needs Triton and queries no device. Under Triton's interpreter (TRITON_INTERPRET=1, set
before the import) the same functions run on CPU tensors: that is how they are tested without a GPU.
"""

import torch

from . import (
    batch_norm_relu,
    batch_norm_residual_energy,
    batch_norm_residual_energy_backward,
    displacement_energy,
    residual_energy,
    residual_energy_layer_norm,
    residual_energy_layer_norm_backward,
)

OPERATORS = {
    "residual_energy": residual_energy.forward,
    "residual_energy_backward": residual_energy.backward,
    "batch_norm_relu": batch_norm_relu.forward,
    "batch_norm_relu_backward": batch_norm_relu.backward,
    "batch_norm_relu_apply": batch_norm_relu.apply,
    "batch_norm_residual_energy": batch_norm_residual_energy.forward,
    "batch_norm_residual_energy_backward": batch_norm_residual_energy_backward.backward,
    "displacement_energy": displacement_energy.forward,
    "displacement_energy_backward": displacement_energy.backward,
    "residual_energy_layer_norm": residual_energy_layer_norm.forward,
    "residual_energy_layer_norm_backward": residual_energy_layer_norm_backward.backward,
}

libraries: list[torch.library.Library] = []  # a registration lives as long as its library


def register(key: str = "CUDA") -> None:
    """Registers the kernels for a dispatch key, for the rest of the process."""
    library = torch.library.Library("trgl", "IMPL")
    for name, function in OPERATORS.items():
        library.impl(name, function, key)
    libraries.append(library)
