"""Residual blocks whose energy is collected by `collect_energy`."""

from .inverted import RegularizedFusedMBConv, RegularizedInvertedResidual, RegularizedMBConv
from .plain import RegularizedPlain
from .residual import Regularized, RegularizedResidual
from .resnet import RegularizedBasicBlock, RegularizedBottleneck, RegularizedPreActBlock
from .transformer import RegularizedSwinBlock, RegularizedSwinBlockV2, RegularizedViTBlock

__all__ = [
    "Regularized",
    "RegularizedBasicBlock",
    "RegularizedBottleneck",
    "RegularizedFusedMBConv",
    "RegularizedInvertedResidual",
    "RegularizedMBConv",
    "RegularizedPlain",
    "RegularizedPreActBlock",
    "RegularizedResidual",
    "RegularizedSwinBlock",
    "RegularizedSwinBlockV2",
    "RegularizedViTBlock",
]
