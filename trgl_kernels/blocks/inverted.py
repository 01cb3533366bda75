"""Inverted residual blocks: MobileNetV2's and EfficientNet's.

Only blocks with a shortcut have a residue: `regularize` leaves the others as they are.
"""

from torch import Tensor, nn
from torchvision.models import efficientnet, mobilenetv2
from torchvision.ops.misc import Conv2dNormActivation

from ..ordinary import customized
from .residual import Regularized


class _Inverted(Regularized):
    """y = x + drop(BN(conv(inner x))), with the last BN, drop and addition in one pass."""

    def _add(
        self,
        x: Tensor,  # [N, C, H, W]
        branch: nn.Module,
        drop: nn.Module | None,
    ) -> Tensor:  # [N, C, H, W]
        layers = _layers(branch)
        if len(layers) > 1 and isinstance(layers[-1], nn.modules.batchnorm._BatchNorm):
            z = x
            for layer in layers[:-1]:
                z = layer(z)
            return self.normalize_and_add(layers[-1], z, x, drop=drop)
        r, keep = self.drop(drop, branch(x))
        return self.add(x, r, keep=keep)


def _layers(branch: nn.Module) -> list[nn.Module]:
    """The layers that running `branch` runs in order, a last one that is a sequence unfolded."""
    if type(branch) not in (nn.Sequential, Conv2dNormActivation) or customized(branch):
        return [branch]
    children = [child for child in branch._modules.values() if child is not None]
    return children[:-1] + _layers(children[-1]) if children else [branch]


class RegularizedInvertedResidual(_Inverted, mobilenetv2.InvertedResidual):
    """MobileNetV2's InvertedResidual: y = x + BN(conv(dw(pw x))), linear at the end.

    Constructor, parameters and state_dict keys are torchvision's. The residue r is the output of
    the last BN; without a shortcut (`use_res_connect`) there is none, and no energy. (Sandler et
    al., "MobileNetV2", CVPR 2018.)
    """

    use_res_connect: bool
    conv: nn.Module

    def forward(
        self,
        x: Tensor,  # [N, C, H, W]
    ) -> Tensor:  # [N, C', H', W']
        if not self.use_res_connect:
            y: Tensor = self.conv(x)
            return y
        return self._add(x, self.conv, None)


class _MBConv(_Inverted):
    use_res_connect: bool
    block: nn.Module
    stochastic_depth: nn.Module

    def forward(
        self,
        input: Tensor,  # [N, C, H, W]
    ) -> Tensor:  # [N, C', H', W']
        if not self.use_res_connect:
            y: Tensor = self.block(input)
            return y
        return self._add(input, self.block, self.stochastic_depth)


class RegularizedMBConv(_MBConv, efficientnet.MBConv):
    """EfficientNet's MBConv: y = x + keep·BN(conv(SE(dw(pw x)))).

    Constructor, parameters and state_dict keys are torchvision's. The residue r is the output of
    the last BN after stochastic depth; without a shortcut (`use_res_connect`) there is none, and no
    energy. (Tan and Le, "EfficientNet", ICML 2019.)
    """


class RegularizedFusedMBConv(_MBConv, efficientnet.FusedMBConv):
    """EfficientNetV2's FusedMBConv: y = x + keep·BN(conv(fused x)).

    Constructor, parameters and state_dict keys are torchvision's. Without expansion the branch ends
    in an activation, whose output is the residue. (Tan and Le, "EfficientNetV2", ICML 2021.)
    """
