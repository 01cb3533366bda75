"""Initializations of convolutions and linear layers, the papers' among them."""

import math
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn
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
    return _draw(module, lambda w, g: nn.init.orthogonal_(w, gain, generator=g), seed)


def truncated_normal_(module: Module, std: float = 0.02, seed: int | None = None) -> Module:
    """Initializes all convolutions and linear layers, in place, and returns the module.

    W ~ N(0, std²), drawn again where it lies beyond two standard deviations;  b = 0.
    Normalizations, tables of positions and class tokens keep their weights.

    Args:
        module: of any kind.
        std: > 0, before the truncation; 0.02 for transformers.
        seed: of the draws, in the order of the layers; None takes PyTorch's global generator.

    Raises:
        ValueError: the deviation is not positive and finite.

    Source: Dosovitskiy et al., 2021, and Liu et al., 2021 (Swin).
    """
    if not (isinstance(std, (int, float)) and 0 < std < math.inf):
        raise ValueError(f"std must be a positive finite number, but got {std!r}. Use 0.02.")
    return _draw(
        module,
        lambda w, g: nn.init.trunc_normal_(w, std=std, a=-2 * std, b=2 * std, generator=g),
        seed,
    )


def _draw(
    module: Module,
    draw: Callable[[Tensor, torch.Generator | None], Tensor],
    seed: int | None,
) -> Module:
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    for layer in module.modules():
        with torch.no_grad():
            for weight in _weights(layer):
                drawn = torch.empty(weight.shape, dtype=torch.float32)
                weight.copy_(draw(drawn, generator))
            for bias in _biases(layer):
                bias.zero_()
    return module


def _weights(layer: nn.Module) -> list[Tensor]:
    if isinstance(layer, (_ConvNd, nn.Linear)):
        return [layer.weight]
    if isinstance(layer, nn.MultiheadAttention) and layer.in_proj_weight is not None:
        return list(layer.in_proj_weight.chunk(3))  # of queries, keys and values
    return []


def _biases(layer: nn.Module) -> list[Tensor]:
    if isinstance(layer, (_ConvNd, nn.Linear)):
        return [] if layer.bias is None else [layer.bias]
    if isinstance(layer, nn.MultiheadAttention) and layer.in_proj_bias is not None:
        return [layer.in_proj_bias]
    return []
