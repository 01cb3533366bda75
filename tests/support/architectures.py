"""Small networks of every architecture, and their residues as one writes them by hand."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import efficientnet, mobilenetv2, resnet, swin_transformer, vgg
from torchvision.models.vision_transformer import EncoderBlock, VisionTransformer

from trgl import models
from trgl_kernels import RegularizedBasicBlock

CLASSES = 3
SHAPE = (3, 16, 16)

Residues = Callable[[nn.Module, Tensor], list[Tensor]]


@dataclass(frozen=True)
class Architecture:
    """A network, and all that is squared in it.

    Args:
        build: makes the plain model.
        residues: of an ordinary run of the model, in order.
        options: for `split`.
    """

    build: Callable[[], nn.Module]
    residues: Residues
    options: dict[str, Any] = field(default_factory=dict)


def hooked(*layers: tuple[type[nn.Module], tuple[str, ...]]) -> Residues:
    """The outputs of the layers of these names in blocks of these kinds."""

    def run(model: nn.Module, images: Tensor) -> list[Tensor]:
        found: list[Tensor] = []
        hooks = []
        for block in model.modules():
            for kind, names in layers:
                if isinstance(block, kind) and getattr(block, "use_res_connect", True):
                    hooks += [
                        block.get_submodule(name).register_forward_hook(
                            lambda _, x, y: found.append(y.clone())  # += follows
                        )
                        for name in names
                    ]
        model(images)
        for hook in hooks:
            hook.remove()
        return found

    return run


def bottleneck_displacements(model: nn.Module, images: Tensor) -> list[Tensor]:
    """y − shortcut(x) of every block, after the last ReLU."""
    found: list[Tensor] = []

    def note(block: nn.Module, inputs: tuple[Tensor, ...], y: Tensor) -> None:
        down = block.downsample
        found.append(y - (inputs[0] if down is None else down(inputs[0])))

    for block in model.modules():
        if isinstance(block, resnet.Bottleneck):
            block.register_forward_hook(note)
    model(images)
    return found


def layer_displacements(model: nn.Module, x: Tensor) -> list[Tensor]:
    """y − x of every convolution, BN and ReLU whose shape stays."""
    found, start = [], x
    for layer in model.features:
        if isinstance(layer, nn.Conv2d):
            start = x
        x = layer(x.clone())  # for ReLU in place
        if isinstance(layer, nn.ReLU) and x.shape == start.shape:
            found.append(x - start)
    return found


def pre_activations(model: nn.Module, x: Tensor) -> list[Tensor]:
    """conv2(relu(bn2(conv1(relu(bn1 x))))) of every block, without BN and ReLU in the first."""
    found = []
    for name, part in model.named_children():
        if name in ("encoder", "down"):
            x = part(x)
            continue
        for block in part:
            z = x if block.bn1 is None else torch.relu(block.bn1(x))
            r = block.conv2(torch.relu(block.bn2(block.conv1(z))))
            found.append(r)
            x = x + r
    return found


def plain_resnet110(model: nn.Module, images: Tensor) -> list[Tensor]:
    for block in model.modules():
        if isinstance(block, RegularizedBasicBlock):
            block.__class__ = resnet.BasicBlock
    return hooked((resnet.BasicBlock, ("bn2",)))(model, images)


def swin(version: int) -> Callable[[], nn.Module]:
    kinds = {
        1: (swin_transformer.SwinTransformerBlock, swin_transformer.PatchMerging),
        2: (swin_transformer.SwinTransformerBlockV2, swin_transformer.PatchMergingV2),
    }[version]
    return lambda: swin_transformer.SwinTransformer(
        [2, 2], 8, [2, 2], [2, 4], [2, 2], 2.0, 0.0, 0.0, 0.4, CLASSES, None, *kinds
    )


def mobilenet() -> nn.Module:
    settings = [[1, 16, 1, 1], [2, 16, 2, 2], [2, 24, 2, 1]]
    return mobilenetv2.MobileNetV2(
        CLASSES, width_mult=0.5, inverted_residual_setting=settings, round_nearest=4
    )


def efficient(version: int) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        kind = efficientnet.MBConvConfig if version == 1 else efficientnet.FusedMBConvConfig
        settings = [kind(1, 3, 1, 8, 8, 2), efficientnet.MBConvConfig(2, 3, 2, 8, 16, 2)]
        return efficientnet.EfficientNet(
            settings, 0.1, stochastic_depth_prob=0.4, num_classes=CLASSES, last_channel=24
        )

    return build


def small_vgg(norm: bool) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        layers = vgg.make_layers([8, 8, "M", 16, 16, "M"], norm)
        with torch.device("meta"):  # its classifier has a hundred million parameters
            model = vgg.VGG(nn.Sequential(), CLASSES, init_weights=False)
        model.features, model.classifier = layers, nn.Linear(16 * 49, CLASSES)
        return model

    return build


def two_stages(block: type[nn.Module], **options: int) -> Callable[[], nn.Module]:
    """A ResNet without its wide half."""

    def build() -> nn.Module:
        with torch.device("meta"):
            model = resnet.ResNet(block, [1, 2, 1, 1], CLASSES, **options)
        model.layer3 = model.layer4 = nn.Sequential()
        model.fc = nn.Identity()
        model.to_empty(device="cpu")
        for layer in model.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out")
            elif isinstance(layer, nn.BatchNorm2d):
                layer.reset_parameters()
        return model

    return build


def bottlenecks(**options: int) -> Callable[[], nn.Module]:
    return two_stages(resnet.Bottleneck, **options)


def short_resnet110() -> nn.Module:
    """Two blocks of each stage of eighteen."""
    model = models.resnet110()
    model.layer1, model.layer2, model.layer3 = (
        stage[:2] for stage in (model.layer1, model.layer2, model.layer3)
    )
    return model


POOLED = {"head": "pool-linear"}
DISPLACEMENT = {"energy": "displacement"}

ARCHITECTURES = {
    "basic": Architecture(
        two_stages(resnet.BasicBlock),
        hooked((resnet.BasicBlock, ("bn2",))),
    ),
    "bottleneck": Architecture(bottlenecks(), hooked((resnet.Bottleneck, ("bn3",)))),
    "resnext": Architecture(
        bottlenecks(groups=2, width_per_group=4), hooked((resnet.Bottleneck, ("bn3",)))
    ),
    "resnext-displacement": Architecture(
        bottlenecks(groups=2, width_per_group=4), bottleneck_displacements, DISPLACEMENT
    ),
    "wide-bottleneck": Architecture(
        bottlenecks(width_per_group=96), hooked((resnet.Bottleneck, ("bn3",)))
    ),
    "resnet110": Architecture(short_resnet110, plain_resnet110),
    "blocks": Architecture(lambda: models.chain(4, 8, 3, encoder_layers=2), pre_activations),
    "wide": Architecture(lambda: models.wide_resnet(4, 8, 3), pre_activations, {"encoder": "stem"}),
    "vgg": Architecture(small_vgg(False), layer_displacements, DISPLACEMENT),
    "vgg-bn": Architecture(small_vgg(True), layer_displacements, DISPLACEMENT),
    "swin": Architecture(
        swin(1), hooked((swin_transformer.SwinTransformerBlock, ("stochastic_depth",))), POOLED
    ),
    "swin-v2": Architecture(
        swin(2), hooked((swin_transformer.SwinTransformerBlock, ("stochastic_depth",))), POOLED
    ),
    "vit": Architecture(
        lambda: VisionTransformer(16, 4, 3, 2, 8, 16, num_classes=CLASSES),
        hooked((EncoderBlock, ("dropout", "mlp"))),
        POOLED,
    ),
    "mobilenet": Architecture(mobilenet, hooked((mobilenetv2.InvertedResidual, ("conv",)))),
    "efficientnet": Architecture(
        efficient(1), hooked((efficientnet.MBConv, ("stochastic_depth",)))
    ),
    "efficientnet-v2": Architecture(
        efficient(2),
        hooked(
            (efficientnet.FusedMBConv, ("stochastic_depth",)),
            (efficientnet.MBConv, ("stochastic_depth",)),
        ),
    ),
}
