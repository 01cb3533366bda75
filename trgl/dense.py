"""The layers of a DenseNet one by one."""

import torch
from torch import Tensor
from torchvision.models.densenet import _DenseLayer


class DenseUnit(_DenseLayer):  # type: ignore[misc]
    """A layer of a dense block as a layer of a row.

    y = concat(x, layer(x))

    It shares children, parameters and hooks with the layer, so that keys stay.

    Args:
        layer: of torchvision's DenseNet.
    """

    def __init__(self, layer: _DenseLayer) -> None:
        self.__dict__ = dict(vars(layer))

    def forward(
        self,
        input: Tensor,  # [N, C, H, W]
    ) -> Tensor:  # [N, C + growth, H, W]
        """All features so far, and those of the layer."""
        return torch.cat([input, super().forward(input)], 1)
