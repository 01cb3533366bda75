"""The pre-activation block of the papers' own networks."""

from torch import Tensor, nn

from .residual import Regularized


class RegularizedPreActBlock(Regularized):
    """y = shortcut(x) + conv2(relu(bn2(conv1(relu(bn1 x))))): no BN after r, no ReLU after the sum.

    The block of the papers' wide and MNIST networks. (He et al., "Identity mappings in deep
    residual networks", ECCV 2016.)

    Args:
        in_channels: channels of x.
        channels: channels of y; where they differ the shortcut is a 1×1 convolution of what
            enters conv1.
        first: leave out bn1 and its ReLU, as the papers do in the first block of a stage.
    """

    def __init__(self, in_channels: int, channels: int, first: bool = False) -> None:
        super().__init__()
        self.bn1 = None if first else nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.shortcut = (
            None if in_channels == channels else nn.Conv2d(in_channels, channels, 1, bias=False)
        )
        self.relu = nn.ReLU(inplace=True)

    def forward(
        self,
        x: Tensor,  # [N, C, H, W]
    ) -> Tensor:  # [N, C', H, W]
        shortcut = x
        if self.shortcut is None and self.bn1 is not None:
            z = self.convolve(self.bn1, self.relu, self.conv1, x)
        else:  # two convolutions read the activation, which is kept for both
            active = x if self.bn1 is None else self.activate(self.bn1, self.relu, x)
            shortcut = x if self.shortcut is None else self.shortcut(active)
            z = self.conv1(active)
        r = self.convolve(self.bn2, self.relu, self.conv2, z)
        return self.add(shortcut, r, held=self.shortcut is None)
