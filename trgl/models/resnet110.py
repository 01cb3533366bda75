"""ResNet-110 for small images."""

from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn

from .papers import BLOCKS

RESNET110_BLOCKS = BLOCKS["resnet110"]  # split(..., balance=RESNET110_BLOCKS[4])


class PadShortcut(nn.Module):
    """A downsampling shortcut without parameters: every second pixel, zeros as new channels.

    y = concat(x[:, :, ::2, ::2], 0)

    Args:
        added: number of channels of zeros.
    """

    def __init__(self, added: int) -> None:
        super().__init__()
        self.added = added
        self.pool = nn.AvgPool2d(1, 2)

    def forward(
        self,
        x: Tensor,  # [N, C, H, W]
    ) -> Tensor:  # [N, C + added, ⌈H/2⌉, ⌈W/2⌉]
        """The shortcut's value."""
        return F.pad(self.pool(x), (0, 0, 0, 0, 0, self.added))


def resnet110(in_channels: int = 3) -> nn.Sequential:
    """Encoder conv 3×3 + BN + ReLU, then 18 basic blocks each of 16, 32 and 64 channels.

    Images [N, in_channels, H, W] become features [N, 64, ⌈H/4⌉, ⌈W/4⌉]. The blocks are
    post-activation; where the channels double, the shortcut is `PadShortcut`.

    Args:
        in_channels: of the images.

    Source: He et al., "Deep residual learning", 2016; TRGL (Karkar et al., NeurIPS 2023), table 3.
    """
    encoder = nn.Sequential(
        nn.Conv2d(in_channels, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()
    )
    return nn.Sequential(
        OrderedDict(
            encoder=encoder,
            layer1=_stage(16, 16),
            layer2=_stage(16, 32),
            layer3=_stage(32, 64),
        )
    )


def _stage(in_channels: int, channels: int) -> nn.Sequential:
    from trgl_kernels import RegularizedBasicBlock  # torchvision's: slow to import

    down = None if in_channels == channels else PadShortcut(channels - in_channels)
    first = RegularizedBasicBlock(in_channels, channels, 1 if down is None else 2, down)
    return nn.Sequential(first, *(RegularizedBasicBlock(channels, channels) for _ in range(17)))
