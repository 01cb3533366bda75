"""A linear layer on all features of a sample, with which heads begin."""

import torch.nn.functional as F
from torch import Tensor, nn


class FlatLinear(nn.Linear):
    """Flatten and linear: logits = W flatten(x) + b, the features in the order of C, H, W.

    Maps that lie in memory as channels_last are read as they lie, by weights that are put in that
    order: a flattened copy of the maps, and backward one of their gradient, would take longer than
    everything else that this layer does. It is the sum of the same products in another order.

    Args:
        in_features: of a sample, C·H·W.
        out_features: width of the logits.
    """

    def forward(
        self,
        x: Tensor,  # [N, *], of in_features values per sample
    ) -> Tensor:  # [N, out_features]
        """Logits of the features."""
        if x.dim() == 4 and x.stride(1) == 1 < x.shape[1]:
            weight = self.weight.unflatten(1, x.shape[1:]).permute(0, 2, 3, 1)
            return F.linear(x.permute(0, 2, 3, 1).flatten(1), weight.flatten(1), self.bias)
        return F.linear(x.flatten(1), self.weight, self.bias)
