"""What the tests of batch_norm_relu share: inputs, eager PyTorch, named results."""

import torch
import torch.nn.functional as F
from batch_norm import clear_of_kink, normal_numbers, results, uneven, vectors
from oracle import (
    rounded,
)
from torch import Tensor

OPTIONS = {
    "training": {"training": True},
    "evaluation": {"training": False},
    "no-affine": {"training": True, "affine": False},
    "no-weight": {"training": True, "weight": False},
    "no-bias": {"training": True, "bias": False},
    "no-running": {"training": True, "running": False},
}
TYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]

again = torch.ops.trgl.batch_norm_relu_apply.default
backward = torch.ops.trgl.batch_norm_relu_backward.default


def eager(z, weight, bias, running_mean, running_var, *, training) -> Tensor:
    """What a user writes without this operator."""
    return torch.relu(F.batch_norm(z, running_mean, running_var, weight, bias, training, 0.1, 1e-5))


def draw(
    shape: tuple[int, ...], options: dict, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, dict, list[Tensor]]:
    """Input, options and cotangents in float64; the input as a type has it, clear of the kink."""
    normal = normal_numbers(shape)
    drawn: dict = {**vectors(normal, shape[1], options), "training": options["training"]}
    z = rounded(uneven(normal, shape, mean=1.0), dtype)
    return clear_of_kink(z, drawn, dtype), drawn, [normal(*shape) + 0.5]


def run(function, z, options, cotangents, dtype, layout):
    """Named outputs, gradients and running statistics of a function at a type and layout."""
    return results(function, {"z": z}, options, ("y",), cotangents, dtype, layout)
