"""Blocks of torchvision's models. Importing this imports torchvision.models: seconds."""

from torch import nn
from torchvision.models import efficientnet, mobilenetv2, swin_transformer, vision_transformer
from torchvision.models import resnet as resnets

from .inverted import RegularizedFusedMBConv, RegularizedInvertedResidual, RegularizedMBConv
from .residual import Regularized
from .resnet import RegularizedBasicBlock, RegularizedBottleneck
from .transformer import RegularizedSwinBlock, RegularizedSwinBlockV2, RegularizedViTBlock

# exact types only: a subclass may compute something else
TWINS: dict[type[nn.Module], type[Regularized]] = {
    resnets.BasicBlock: RegularizedBasicBlock,
    resnets.Bottleneck: RegularizedBottleneck,
    mobilenetv2.InvertedResidual: RegularizedInvertedResidual,
    efficientnet.MBConv: RegularizedMBConv,
    efficientnet.FusedMBConv: RegularizedFusedMBConv,
    swin_transformer.SwinTransformerBlock: RegularizedSwinBlock,
    swin_transformer.SwinTransformerBlockV2: RegularizedSwinBlockV2,
    vision_transformer.EncoderBlock: RegularizedViTBlock,
}
