"""A linear layer on all features of a sample, with which heads begin."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FlatLinear(nn.Linear):
    """Flatten and linear: logits = W flatten(x) + b, the features in the order of C, H, W.

    Maps that lie in memory as channels_last are read as they lie, by a copy of the weights in that
    order, where that is the smaller copy: W has out_features rows, the maps and their gradient N
    each. It is the sum of the same products in another order.

    Args:
        in_features: of a sample, C·H·W.
        out_features: width of the logits.
    """

    def forward(
        self,
        x: Tensor,  # [N, *], of in_features values per sample
    ) -> Tensor:  # [N, out_features]
        """Logits of the features."""
        plain = torch.compiler.is_compiling()  # a graph shall hold for every N and layout
        last = not plain and x.dim() == 4 and x.stride(1) == 1 < x.shape[1]
        if last and self.out_features <= x.shape[0]:
            weight = self.weight.unflatten(1, x.shape[1:]).permute(0, 2, 3, 1)
            return F.linear(x.permute(0, 2, 3, 1).flatten(1), weight.flatten(1), self.bias)
        return F.linear(x.flatten(1), self.weight, self.bias)
