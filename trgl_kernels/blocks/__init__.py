"""Residual blocks whose energy is collected by `collect_energy`."""

from .residual import Regularized, RegularizedResidual
from .resnet import RegularizedBasicBlock, RegularizedBottleneck, RegularizedPreActBlock

__all__ = [
    "Regularized",
    "RegularizedBasicBlock",
    "RegularizedBottleneck",
    "RegularizedPreActBlock",
    "RegularizedResidual",
]
