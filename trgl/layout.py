"""Which layers of a model are its stem and which are its blocks."""

import sys
from types import ModuleType

from torch import nn

from .sequence import Layout, children, is_composite, is_sequential, more, sequential
from .tokens import ClassToken, Positions, Tokens

__all__ = ["Layout", "is_composite", "layout_of"]

_STEM = ("conv1", "bn1", "relu", "maxpool")
_STAGES = ("layer1", "layer2", "layer3", "layer4")
# torchvision's models whose layers stand in `features`, and the methods that run them
_FEATURES = {
    ("vgg", "VGG"): ("forward",),
    ("mobilenetv2", "MobileNetV2"): ("forward", "_forward_impl"),
    ("efficientnet", "EfficientNet"): ("forward", "_forward_impl"),
    ("swin_transformer", "SwinTransformer"): ("forward",),
}


def layout_of(model: nn.Module) -> Layout:
    """Finds the blocks of a model of torchvision or of any `nn.Sequential`.

    ResNet, ResNeXt and WideResNet: the stem is conv1, bn1, relu and maxpool, a block is a residual
    block. VGG, MobileNetV2, EfficientNet and Swin: the layers of `features`, as in a Sequential; a
    Swin's patch merging belongs to the block behind it. ViT: the stem makes tokens of the image, a
    block is an encoder block. What follows the last block, norms and classifier, is dropped.
    `nn.Sequential`: see `sequential`; nothing is dropped.

    Raises:
        ValueError: a model of another kind, or one without blocks; one that does more than run its
            layers in order.
    """
    resnet = _loaded("resnet")
    if resnet is not None and isinstance(model, resnet.ResNet):
        return _resnet(model, resnet.ResNet)
    for (file, name), methods in _FEATURES.items():
        module = _loaded(file)
        if module is not None and isinstance(model, getattr(module, name)):
            return _features(model, getattr(module, name), methods)
    vit = _loaded("vision_transformer")
    if vit is not None and isinstance(model, vit.VisionTransformer):
        return _vit(model, vit)
    if is_sequential(model):
        layout = sequential(model)
        if layout.blocks:
            return layout
        raise ValueError("A Sequential without layers cannot be split. Put layers into it.")
    if isinstance(model, nn.Sequential):
        raise ValueError(
            f"A Sequential is split into its layers, so that it must do nothing but run them, but "
            f"got {type(model).__name__} with {more(model)}. Put its layers into a plain "
            f"nn.Sequential: nn.Sequential(*model)."
        )
    raise ValueError(
        f"split takes torchvision's ResNet, ResNeXt, WideResNet, VGG, MobileNetV2, EfficientNet, "
        f"Swin and ViT, or an nn.Sequential, because it must know in which order the layers run; "
        f"but got {type(model).__name__}. Wrap the layers in an nn.Sequential in the order of "
        f"running, without the classifier."
    )


def _loaded(file: str) -> ModuleType | None:
    """A file of torchvision's models, if anything imported it: then a model may come from it."""
    return sys.modules.get(f"torchvision.models.{file}")


def _check_ordinary(model: nn.Module, kind: type[nn.Module], methods: tuple[str, ...]) -> None:
    found = more(model, kind, methods)
    if found:
        raise ValueError(
            f"A {kind.__name__} is split into its layers, in the order in which torchvision runs "
            f"them, but got {type(model).__name__} with {found}. Remove it, or wrap the layers in "
            f"an nn.Sequential in the order of running, without the classifier."
        )


def _row(model: nn.Module, name: str) -> nn.Module:
    """A row of layers inside of a model."""
    row = model.get_submodule(name)
    if not is_sequential(row):
        raise ValueError(
            f"{name!r} of a {type(model).__name__} must be a plain Sequential, which does nothing "
            f"but run its layers, but it is {type(row).__name__} with "
            f"{more(row) or 'a forward of its own'}. Make it nn.Sequential(*layers), and split "
            f"before regularizing: split does so itself."
        )
    return row


def _features(model: nn.Module, kind: type[nn.Module], methods: tuple[str, ...]) -> Layout:
    """The layers of `features`."""
    _check_ordinary(model, kind, methods)
    row = _row(model, "features")
    swin = _loaded("swin_transformer")
    is_swin = swin is not None and isinstance(model, swin.SwinTransformer)
    joins = (swin.PatchMerging, swin.PatchMergingV2) if swin is not None else ()
    layout = sequential(row, "features.", joins)
    if not layout.blocks:
        raise ValueError(
            f"A {kind.__name__} without layers cannot be split. Leave it at least one."
        )
    return Layout(layout.stem, layout.blocks, channels_last=is_swin)


def _vit(model: nn.Module, vit: ModuleType) -> Layout:
    """Stem and blocks of a torchvision ViT, whose forward does more than run layers."""
    _check_ordinary(model, vit.VisionTransformer, ("forward", "_process_input"))
    encoder = model.get_submodule("encoder")
    _check_ordinary(encoder, vit.Encoder, ("forward",))
    row = _row(model, "encoder.layers")
    token, positions = model.class_token, encoder.pos_embedding
    assert isinstance(token, nn.Parameter)
    assert isinstance(positions, nn.Parameter)
    added = {
        "to_tokens": Tokens(),
        "class_token": ClassToken(token),
        "encoder.pos_embedding": Positions(positions),
    }
    return Layout(
        ("conv_proj", *added, "encoder.dropout"),
        tuple((f"encoder.layers.{name}",) for name, _ in children(row)),
        added,
    )


def _resnet(model: nn.Module, kind: type[nn.Module]) -> Layout:
    """Stem and blocks of a torchvision ResNet, whose forward must be torchvision's."""
    _check_ordinary(model, kind, ("forward", "_forward_impl"))
    for name in (*_STEM, *_STAGES):
        if not isinstance(getattr(model, name, None), nn.Module):
            raise ValueError(
                f"A ResNet is split into its layers, but {name!r} of {type(model).__name__} is no "
                f"module. Put nn.Identity() there, or an empty nn.Sequential() for a stage."
            )
    for stage in _STAGES:
        module = model.get_submodule(stage)
        if not is_sequential(module):
            raise ValueError(
                f"The stages of a ResNet must be plain Sequentials, which do nothing but run their "
                f"blocks, but {stage!r} is {type(module).__name__} with "
                f"{more(module) or 'a forward of its own'}. Make it nn.Sequential(*blocks); an "
                f"empty one drops the stage."
            )
    blocks = [
        f"{stage}.{name}" for stage in _STAGES for name, _ in children(model.get_submodule(stage))
    ]
    if not blocks:
        raise ValueError("A ResNet without blocks cannot be split. Leave it at least one.")
    return Layout(_STEM, tuple((block,) for block in blocks))
