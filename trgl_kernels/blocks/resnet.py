"""The two blocks of torchvision's ResNets."""

from torch import Tensor, nn
from torchvision.models import resnet

from .residual import Regularized


class RegularizedBasicBlock(Regularized, resnet.BasicBlock):
    """torchvision's BasicBlock, y = relu(shortcut(x) + bn2(conv2(relu(bn1(conv1 x))))).

    Constructor, parameters and state_dict keys are torchvision's, so that it can stand in
    `torchvision.models.ResNet(RegularizedBasicBlock, [2, 2, 2, 2])` and load its checkpoints.
    The residue r is the output of bn2. (He et al., "Deep residual learning", CVPR 2016.)
    """

    conv1: nn.Module
    bn1: nn.Module
    conv2: nn.Module
    bn2: nn.Module
    relu: nn.Module
    downsample: nn.Module | None

    def forward(
        self,
        x: Tensor,  # [N, C, H, W]
    ) -> Tensor:  # [N, C', H', W']
        shortcut = x if self.downsample is None else self.downsample(x)
        z = self.convolve(self.bn1, self.relu, self.conv2, self.conv1(x))
        return self.normalize_and_add(
            self.bn2, z, shortcut, self.relu, held=self.downsample is None
        )


class RegularizedBottleneck(Regularized, resnet.Bottleneck):
    """torchvision's Bottleneck, y = relu(shortcut(x) + bn3(conv3(...))).

    Constructor, parameters and state_dict keys are torchvision's, so that it can stand in
    `torchvision.models.ResNet(RegularizedBottleneck, [3, 4, 6, 3])` and load its checkpoints;
    ResNeXt and Wide ResNet are this block with other widths and groups. The residue r is the
    output of bn3. (He et al., "Deep residual learning", CVPR 2016.)
    """

    conv1: nn.Module
    bn1: nn.Module
    conv2: nn.Module
    bn2: nn.Module
    conv3: nn.Module
    bn3: nn.Module
    relu: nn.Module
    downsample: nn.Module | None

    def forward(
        self,
        x: Tensor,  # [N, C, H, W]
    ) -> Tensor:  # [N, C', H', W']
        shortcut = x if self.downsample is None else self.downsample(x)
        z = self.convolve(self.bn1, self.relu, self.conv2, self.conv1(x))
        z = self.convolve(self.bn2, self.relu, self.conv3, z)
        return self.normalize_and_add(
            self.bn3, z, shortcut, self.relu, held=self.downsample is None
        )
