"""InfoPro: features are to keep what is needed to draw the image."""

import math

import torch.nn.functional as F
from torch import Tensor, nn

from ..heads import Shape
from .weight import check_weight


class Reconstruction(nn.Module):
    """InfoPro: the features are to keep what is needed to draw the image again.

    L = criterion + λ mean((D(features) − image)²)

    The mean is over samples, channels and pixels: up to constants, the squared error is the
    negative log-likelihood of the image under a normal distribution around D(features), whose
    minimum bounds the information that the features keep from below. The authors' code has the
    cross-entropy of pixels from 0 to 1 instead; normalized images are none.

    Args:
        decoder: D, from features [N, C, H, W] to images.
        weight: λ ≥ 0.
        channel_dim: dimension of C in the features: 1 for [N, C, H, W], −1 for [N, H, W, C].
    """

    def __init__(self, decoder: nn.Module, weight: float, channel_dim: int = 1) -> None:
        super().__init__()
        self.decoder = decoder
        self.weight = weight
        self.channel_dim = channel_dim

    def forward(
        self,
        criterion: Tensor,  # []
        features: Tensor,  # [N, C, H, W] or [N, H, W, C]
        images: Tensor,  # [N, *input_shape]
        labels: Tensor,  # [N], or [N, classes] for soft ones
    ) -> Tensor:  # []
        """The loss of a batch."""
        drawn = self.decoder(features.movedim(self.channel_dim, 1))
        return criterion + self.weight * F.mse_loss(drawn, images.to(drawn.dtype))


def reconstruction(
    shape: Shape,
    num_classes: int,
    input_shape: Shape,
    *,
    weight: float = 1.0,
    width: int = 12,
    channels_last: bool | None = None,
) -> nn.Module:
    """InfoPro's reconstruction loss: see `Reconstruction`.

    D resizes the features to the image bilinearly; then convolution 3×3 to `width` channels, BN,
    ReLU, convolution 3×3 to the channels of the image.

    Args:
        shape: (C, H, W), or (H, W, C) with channels_last.
        num_classes: not needed.
        input_shape: (C, H, W) of one image.
        weight: λ ≥ 0.
        width: channels between the convolutions, ≥ 1.
        channels_last: the last dimension of the features holds the channels.

    Raises:
        ValueError: features or images that are no maps, or λ or width out of its range.

    Source: Wang et al., "Revisiting Locally Supervised Learning: an Alternative to End-to-end
        Training", ICLR 2021, section 3.2 and appendix.
    """
    check_weight("reconstruction", weight, math.inf)
    if len(shape) != 3 or len(input_shape) != 3:
        raise ValueError(
            f"Local loss 'reconstruction' draws images (C, H, W) from feature maps (C, H, W), but "
            f"the features are {shape} and the images {tuple(input_shape)}. Use 'similarity', or a "
            f"local loss of your own."
        )
    if width < 1:
        raise ValueError(
            f"The decoder of 'reconstruction' needs a width of at least 1, but got {width}."
        )
    decoder = nn.Sequential(
        nn.Upsample(tuple(input_shape[1:]), mode="bilinear", align_corners=True),
        nn.Conv2d(shape[-1] if channels_last else shape[0], width, 3, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, input_shape[0], 3, padding=1),
    )
    return Reconstruction(decoder, weight, -1 if channels_last else 1)
