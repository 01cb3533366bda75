"""The initialization of the papers' experiments."""

import math
from typing import TypeVar

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

Module = TypeVar("Module", bound=nn.Module)


def orthogonal_(module: Module, gain: float = 0.05, seed: int | None = None) -> Module:
    """Initializes all convolutions and linear layers, in place, and returns the module.

    W = gain · Q with orthonormal rows or columns, W being [out, in·kernel];  b = 0.
    Normalizations keep their weights. Call it on the whole network after `split`, so that heads
    are initialized too.

    Args:
        module: of any kind.
        gain: > 0; 0.05 or 0.1 in the papers: blocks then start near the identity.
        seed: of the draws, in the order of the layers; None takes PyTorch's global generator.

    Raises:
        ValueError: the gain is not positive and finite.

    Source: TRGL (Karkar et al., NeurIPS 2023), appendix E, after Saxe et al., 2014.
    """
    if not (isinstance(gain, (int, float)) and 0 < gain < math.inf):
        raise ValueError(f"gain must be a positive finite number, but got {gain!r}. Use 0.05.")
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    for layer in module.modules():
        if isinstance(layer, (_ConvNd, nn.Linear)):
            weight = torch.empty(layer.weight.shape, dtype=torch.float32)
            nn.init.orthogonal_(weight, gain, generator=generator)
            with torch.no_grad():
                layer.weight.copy_(weight)
                if layer.bias is not None:
                    layer.bias.zero_()
    return module
