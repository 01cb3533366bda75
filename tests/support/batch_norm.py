"""What the tests of the operators with batch normalization share."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from oracle import INTERPRETED, gradients, leaf
from torch import Tensor

from trgl_kernels import reference

SHAPES = [(6, 7), (3, 11, 6), (2, 3, 5, 7), (3, 16, 4, 4), (5, 33, 1, 1), (2, 3, 2, 3, 4)]
if not INTERPRETED:
    SHAPES += [(3, 83, 5, 7), (2, 5, 97, 101), (4, 33, 28, 28), (20, 1, 30, 30)]

Normal = Callable[..., Tensor]


def normal_numbers(shape: tuple[int, ...]) -> Normal:
    """Normal numbers in float64, the same ones for the same shape."""
    generator = torch.Generator().manual_seed(hash(shape) % 1000)
    return lambda *size: torch.randn(*size, generator=generator, dtype=torch.float64)


def vectors(normal: Normal, channels: int, options: dict[str, Any]) -> dict[str, Tensor | None]:
    """γ, β and running statistics; None where the options say so."""
    affine, running = options.get("affine", True), options.get("running", True)
    return {
        "weight": normal(channels).abs() + 0.2 if options.get("weight", affine) else None,
        "bias": normal(channels) if options.get("bias", affine) else None,
        "running_mean": normal(channels) if running else None,
        "running_var": normal(channels).abs() + 0.5 if running else None,
    }


def uneven(normal: Normal, shape: tuple[int, ...], mean: float = 3.0) -> Tensor:
    """What enters BN: means away from 0, so that they matter, and a variance for each channel."""
    values = normal(*shape)
    spread = normal(shape[1]).abs() + 0.5
    return values * spread.reshape(-1, *[1] * (len(shape) - 2)) + mean


def clear_of_kink(z: Tensor, options: dict[str, Any], dtype: torch.dtype) -> Tensor:
    """z moved, within what a type can hold, so that BN's output keeps clear of a ReLU's kink."""
    for _ in range(100):
        copies = {k: v.clone() if isinstance(v, Tensor) else v for k, v in options.items()}
        u = F.batch_norm(z, **copies)
        near = u.abs() < 0.02
        if not near.any():
            return z
        # statistics move with the values: away from the kink, and look again
        moved = torch.where(near, z + torch.where(u < 0, -0.3, 0.3), z)
        z = moved.to(dtype).to(z.dtype)
    raise AssertionError("no input clear of the kink was found")


def results(
    function: Callable[..., Any],
    inputs: dict[str, Tensor],
    options: dict[str, Any],
    outputs: Sequence[str],
    cotangents: Sequence[Tensor],
    dtype: torch.dtype,
    layout: torch.memory_format,
) -> dict[str, Tensor]:
    """Named outputs, gradients and running statistics of a function at a type and layout.

    Vectors among the options, and the cotangents of outputs that are vectors, are float32 (float64
    for float64).
    """
    maps = {name: leaf(value, dtype, layout) for name, value in inputs.items()}
    wide = reference.accumulation_dtype(*maps.values())
    options = {k: v.to(wide, copy=True) if isinstance(v, Tensor) else v for k, v in options.items()}
    wanted = dict(maps)
    for name in ("weight", "bias"):
        if options[name] is not None:
            wanted[name] = options[name].requires_grad_()
    found = function(*maps.values(), **options)
    found = (found,) if isinstance(found, Tensor) else found[: len(outputs)]
    slopes = [c.to(wide if c.dim() == 1 else dtype) for c in cotangents]
    grads = gradients(found, slopes, [*wanted.values()])
    named = {name: value.detach() for name, value in zip(outputs, found, strict=True)}
    named |= {f"grad_{name}": value for name, value in zip(wanted, grads, strict=True)}
    for name in ("running_mean", "running_var"):
        if options[name] is not None:
            named[name] = options[name]
    return named
