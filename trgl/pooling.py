"""Averages over positions, with which heads end."""

import torch
from torch import Tensor, nn


class GlobalAveragePool(nn.Module):
    """Average over the positions of each channel, those of `nn.AdaptiveAvgPool2d(1)` bit by bit.

    y = Σ_s x_s / S

    The division comes after the sum, so that backward expands a gradient of N·C numbers and never
    writes a map of it, which moreover would be contiguous where x is channels_last.
    """

    def forward(
        self,
        x: Tensor,  # [N, C, H, W]
    ) -> Tensor:  # [N, C, 1, 1]
        """The averages."""
        exact = torch.promote_types(x.dtype, torch.float32)  # a sum of float16 may overflow
        total = x.sum((2, 3), keepdim=True, dtype=exact)
        return total.div(x.shape[2] * x.shape[3]).to(x.dtype)


class PoolLinear(nn.Module):
    """LayerNorm over channels, average over positions, linear.

    logits = W mean_s(LayerNorm(x_s)) + b

    Args:
        channels: C.
        num_classes: width of the logits.
        channel_dim: dimension of C in the features with the batch: 1 for [N, C, *], −1 for
            [N, *, C].
    """

    def __init__(self, channels: int, num_classes: int, channel_dim: int = 1) -> None:
        super().__init__()
        self.channel_dim = channel_dim
        self.norm = nn.LayerNorm(channels)
        self.linear = nn.Linear(channels, num_classes)

    def forward(
        self,
        x: Tensor,  # [N, C, *] or [N, *, C]
    ) -> Tensor:  # [N, classes]
        """Logits of the features."""
        x = self.norm(x.movedim(self.channel_dim, -1))
        logits: Tensor = self.linear(x.flatten(1, -2).mean(1))
        return logits
