"""What the tests of residual_energy share: inputs, eager PyTorch, results."""

import torch
from oracle import (
    INTERPRETED,
    away_from_kink,
    gradients,
    leaf,
)
from torch import Tensor

from trgl_kernels import reference

SHAPES = [(5, 7), (3, 11, 6), (2, 3, 5, 7), (2, 16, 4, 4), (3, 130, 1, 1), (2, 3, 2, 3, 4)]
if not INTERPRETED:
    SHAPES += [(2, 5, 97, 101), (4, 33, 28, 28)]

OPTIONS = {
    "plain": {},
    "relu": {"activation": "relu"},
    "scale": {"scale": True},
    "keep": {"keep": True},
    "scale-keep-relu": {"scale": True, "keep": True, "activation": "relu"},
    "p1": {"p": 1.0},
    "p1.5-keep": {"p": 1.5, "keep": True},
    "p2.5": {"p": 2.5},
    "p3-scale-relu": {"p": 3.0, "scale": True, "activation": "relu"},
}


def channels(shape: tuple[int, ...]) -> int:
    return shape[1] if len(shape) >= 4 else shape[-1]


def draw(shape: tuple[int, ...], options: dict) -> tuple[Tensor, Tensor, dict, list[Tensor]]:
    """Inputs, options and cotangents in float64."""
    generator = torch.Generator().manual_seed(hash(shape) % 1000)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    options = dict(options)
    if options.get("scale"):
        options["scale"] = normal(channels(shape)).abs() + 0.2
    if options.get("keep"):
        options["keep"] = torch.tensor([0.0, 1.25, 1.25, 0.0, 1.25][: shape[0]]).double()
    r = normal(*shape)
    q = reference.residue(r, options.get("scale"), options.get("keep"), r.dtype)
    x = away_from_kink(normal(*shape), q)
    # uneven weights, so that a mistake in the sample index cannot cancel out
    weights = torch.linspace(-1.0, 2.0, shape[0], dtype=torch.float64)
    return x, r, options, [normal(*shape) + 0.5, weights]


def run(function, x, r, options, cotangents, dtype, layout):
    """[y, energy, grad_x, grad_r, grad_scale?] of a function at a type and layout."""
    x, r = leaf(x, dtype, layout), leaf(r, dtype, layout)
    wide = reference.accumulation_dtype(x)
    options = {k: v.to(wide) if isinstance(v, Tensor) else v for k, v in options.items()}
    inputs = [x, r]
    if "scale" in options:
        options["scale"] = options["scale"].clone().requires_grad_()
        inputs.append(options["scale"])
    y, energy = function(x, r, **options)
    grads = gradients([y, energy], [cotangents[0].to(y.dtype), cotangents[1].to(wide)], inputs)
    return [y.detach(), energy.detach(), *grads]


def eager(x, r, activation="none", scale=None, keep=None, p=2.0):
    """What a user writes without this operator; the energy in float32."""
    q = r
    if scale is not None:
        dim = 1 if r.dim() >= 4 else r.dim() - 1
        q = q * reference.along(scale, r, dim, r.dtype)
    if keep is not None:
        q = q * reference.along(keep, r, 0, r.dtype)
    y = torch.relu(x + q) if activation == "relu" else x + q
    wide = reference.accumulation_dtype(x)
    return y, q.to(wide).abs().pow(p).flatten(1).sum(1)
