"""Models that tests split."""

from torch import nn
from torchvision.models.resnet import BasicBlock

import trgl
from trgl_kernels import (
    RegularizedBasicBlock,
)


def chain2():
    return trgl.models.chain(2, 4, 2, kernel_size=3, stride=1)


def own_energies():
    blocks = [RegularizedBasicBlock(4, 4), RegularizedBasicBlock(4, 4), BasicBlock(4, 4)]
    blocks[0].energy = "displacement"
    return nn.Sequential(*blocks)
