"""What the tests of residual_energy_layer_norm share: inputs, eager PyTorch, named results."""

import torch
import torch.nn.functional as F
from oracle import (
    INTERPRETED,
    gradients,
    leaf,
)
from torch import Tensor

from trgl_kernels import reference

OP = torch.ops.trgl.residual_energy_layer_norm.default
BACKWARD = torch.ops.trgl.residual_energy_layer_norm_backward.default

SHAPES = [(5, 7), (3, 11, 6), (2, 3, 5, 7), (2, 4, 4, 16), (3, 1, 130), (2, 3, 2, 3, 4)]
if not INTERPRETED:
    SHAPES += [(3, 197, 96), (2, 5, 3001), (300, 64)]

OPTIONS = {
    "affine": {},
    "no-affine": {"weight": False, "bias": False},
    "no-bias": {"bias": False, "eps": 1e-2},
    "scale": {"scale": True},
    "keep": {"keep": True},
    "scale-keep": {"scale": True, "keep": True},
    "p1-no-weight": {"p": 1.0, "weight": False},
    "p1.5-keep": {"p": 1.5, "keep": True},
    "p2.5": {"p": 2.5},
    "p3-scale": {"p": 3.0, "scale": True},
}
VECTORS = ("weight", "bias", "scale")


def draw(shape: tuple[int, ...], options: dict) -> tuple[Tensor, Tensor, dict, list[Tensor]]:
    """Inputs, options and cotangents in float64; means far from 0, so that they matter."""
    generator = torch.Generator().manual_seed(hash(shape) % 1000)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    c = shape[-1]
    drawn = {
        "weight": normal(c) + 0.5 if options.get("weight", True) else None,
        "bias": normal(c) if options.get("bias", True) else None,
    }
    if options.get("scale"):
        drawn["scale"] = normal(c).abs() + 0.2
    if options.get("keep"):
        drawn["keep"] = (torch.arange(shape[0]) % 3 != 0).double() * 1.25
    drawn |= {k: v for k, v in options.items() if k in ("eps", "p")}
    x = normal(*shape) + 2.0 * normal(*shape[:-1], 1)
    # uneven weights, so that a mistake in the sample index cannot cancel out
    weights = torch.linspace(-1.0, 2.0, shape[0], dtype=torch.float64)
    return x, normal(*shape), drawn, [normal(*shape) + 0.5, normal(*shape) - 0.5, weights]


def eager(x, r, weight, bias, *, eps=1e-5, scale=None, keep=None, p=2.0):
    """What a user writes without this operator; the energy in float32."""
    q = r
    if scale is not None:
        q = q * scale.to(r.dtype)
    if keep is not None:
        q = q * reference.along(keep, r, 0, r.dtype)
    y = x + q
    affine = [None if v is None else v.to(y.dtype) for v in (weight, bias)]
    normed = F.layer_norm(y, y.shape[-1:], *affine, eps)
    wide = reference.accumulation_dtype(x)
    return y, normed, q.to(wide).abs().pow(p).flatten(1).sum(1)


def run(function, x, r, options, cotangents, dtype, layout=torch.contiguous_format):
    """Named outputs and gradients of a function at a type and layout."""
    x, r = leaf(x, dtype, layout), leaf(r, dtype, layout)
    wide = reference.accumulation_dtype(x)
    options = {k: v.to(wide, copy=True) if isinstance(v, Tensor) else v for k, v in options.items()}
    inputs = {"grad_x": x, "grad_r": r}
    for name in VECTORS:
        if options.get(name) is not None:
            inputs[f"grad_{name}"] = options[name].requires_grad_()
    y, normed, energy, *_ = function(x, r, **options)
    outputs = {"y": y, "normed": normed, "energy": energy}
    cotangents = [c.to(o.dtype) for c, o in zip(cotangents, outputs.values(), strict=True)]
    grads = gradients([*outputs.values()], cotangents, [*inputs.values()])
    outputs = {name: output.detach() for name, output in outputs.items()}
    return outputs | dict(zip(inputs, grads, strict=True))
