"""What the tests of batch_norm_residual_energy share: inputs, eager PyTorch, named results."""

import torch
import torch.nn.functional as F
from batch_norm import normal_numbers, results, uneven, vectors
from oracle import (
    away_from_kink,
)
from torch import Tensor

from trgl_kernels import reference

OPTIONS = {
    "training": {"training": True},
    "evaluation": {"training": False},
    "no-affine": {"training": True, "affine": False, "activation": "none"},
    "no-weight": {"training": False, "weight": False},
    "no-bias-p1": {"training": True, "bias": False, "p": 1.0},
    "no-running": {"training": True, "running": False},
    "keep": {"training": True, "keep": True},
    "p1.5-keep": {"training": True, "keep": True, "p": 1.5, "activation": "none"},
    "p3-evaluation": {"training": False, "p": 3.0},
    "p2.5": {"training": True, "p": 2.5},
}


def draw(shape: tuple[int, ...], options: dict) -> tuple[Tensor, Tensor, dict, list[Tensor]]:
    """Inputs, options and cotangents in float64."""
    normal = normal_numbers(shape)
    drawn: dict = vectors(normal, shape[1], options)
    if options.get("keep"):
        drawn["keep"] = (torch.arange(shape[0]) % 3 != 0).double() * 1.5
    given = ("training", "p", "activation")
    drawn |= {k: v for k, v in options.items() if k in given}
    z = uneven(normal, shape)
    copies = {k: v.clone() if isinstance(v, Tensor) else v for k, v in drawn.items()}
    q = batch_norm(z, torch.zeros_like(z), **{**copies, "activation": "none"})[0]
    weights = torch.linspace(-1.0, 2.0, shape[0], dtype=torch.float64)
    return z, away_from_kink(normal(*shape), q), drawn, [normal(*shape) + 0.5, weights]


def batch_norm(
    z, x, weight, bias, running_mean, running_var, *, training, activation="relu", keep=None, p=2.0
):
    """What a user writes without this operator; the energy in float32."""
    q = F.batch_norm(z, running_mean, running_var, weight, bias, training, 0.1, 1e-5)
    if keep is not None:
        q = q * reference.along(keep, z, 0, z.dtype)
    y = torch.relu(x + q) if activation == "relu" else x + q
    wide = reference.accumulation_dtype(z)
    return y, q.to(wide).abs().pow(p).flatten(1).sum(1)


def run(function, z, x, options, cotangents, dtype, layout):
    """Named outputs, gradients and running statistics of a function at a type and layout."""
    inputs, outputs = {"z": z, "x": x}, ("y", "energy")
    return results(function, inputs, options, outputs, cotangents, dtype, layout)
