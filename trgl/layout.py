"""Which layers of a model are its stem and which are its blocks."""

from types import ModuleType

from torch import nn

from . import layout_own, layout_timm
from .sequence import (
    Layout,
    check_ordinary,
    children,
    is_composite,
    is_sequential,
    loaded,
    more,
    resnet,
    row,
    sequential,
)
from .tokens import ClassToken, Positions, Tokens

__all__ = ["Layout", "is_composite", "layout_of"]

# torchvision's models whose layers stand in `features`, and the methods that run them
_FEATURES = {
    ("vgg", "VGG"): ("forward",),
    ("mobilenetv2", "MobileNetV2"): ("forward", "_forward_impl"),
    ("efficientnet", "EfficientNet"): ("forward", "_forward_impl"),
    ("swin_transformer", "SwinTransformer"): ("forward",),
}


def layout_of(model: nn.Module) -> Layout:
    """Finds the blocks of a model of torchvision's or timm's, or of any `nn.Sequential`.

    ResNet, ResNeXt and WideResNet: the stem is conv1, bn1, relu and maxpool, a block is a residual
    block. VGG, MobileNetV2, EfficientNet and Swin: the layers of `features`, as in a Sequential; a
    Swin's patch merging belongs to the block behind it. ViT: the stem makes tokens of the image, a
    block is an encoder block. DenseNet: a block is a layer of a dense block, a transition belongs
    to the one behind it. What follows the last block, norms and classifier, is dropped.
    `nn.Sequential`: see `sequential`; nothing is dropped. timm's: see `layout_timm`. Any other
    model that has a method `layout`: what that returns, see `layout_own`.

    Raises:
        ValueError: a model of another kind, or one without blocks; one that does more than run its
            layers in order.
    """
    resnets = _loaded("resnet")
    if resnets is not None and isinstance(model, resnets.ResNet):
        check_ordinary(model, resnets.ResNet, ("forward", "_forward_impl"))
        return resnet(model, ("conv1", "bn1", "relu", "maxpool"))
    dense = _loaded("densenet")
    if dense is not None and isinstance(model, dense.DenseNet):
        return _densenet(model, dense)
    for (file, name), methods in _FEATURES.items():
        module = _loaded(file)
        if module is not None and isinstance(model, getattr(module, name)):
            return _features(model, getattr(module, name), methods)
    vit = _loaded("vision_transformer")
    if vit is not None and isinstance(model, vit.VisionTransformer):
        return _vit(model, vit)
    found = layout_timm.layout_of(model) or layout_own.layout_of(model)
    if found is not None:
        return found
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
        f"DenseNet, Swin and ViT, timm's ResNet, ViT, Swin, ConvNeXt, RegNet and EfficientNet, or "
        f"an nn.Sequential, because it must know in which order the layers run; but got "
        f"{type(model).__name__}. Wrap the layers in an nn.Sequential in the order of running, "
        f"without the classifier, or give it a method `layout` that returns a trgl.Layout."
    )


def _loaded(file: str) -> ModuleType | None:
    return loaded(f"torchvision.models.{file}")


def _features(model: nn.Module, kind: type[nn.Module], methods: tuple[str, ...]) -> Layout:
    """The layers of `features`."""
    check_ordinary(model, kind, methods)
    layers = row(model, "features")
    swin = _loaded("swin_transformer")
    is_swin = swin is not None and isinstance(model, swin.SwinTransformer)
    joins = (swin.PatchMerging, swin.PatchMergingV2) if swin is not None else ()
    layout = sequential(layers, "features.", joins)
    if not layout.blocks:
        raise ValueError(
            f"A {kind.__name__} without layers cannot be split. Leave it at least one."
        )
    return Layout(layout.stem, layout.blocks, channels_last=is_swin)


def _vit(model: nn.Module, vit: ModuleType) -> Layout:
    """Stem and blocks of a torchvision ViT, whose forward does more than run layers."""
    check_ordinary(model, vit.VisionTransformer, ("forward", "_process_input"))
    encoder = model.get_submodule("encoder")
    check_ordinary(encoder, vit.Encoder, ("forward",))
    layers = row(model, "encoder.layers")
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
        tuple((f"encoder.layers.{name}",) for name, _ in children(layers)),
        added,
    )


def _densenet(model: nn.Module, dense: ModuleType) -> Layout:
    """Stem and layers of a torchvision DenseNet."""
    from .dense import DenseUnit  # torchvision is there

    check_ordinary(model, dense.DenseNet, ("forward",))
    stem: tuple[str, ...] | None = None
    blocks: list[tuple[str, ...]] = []
    added: dict[str, nn.Module] = {}
    waiting: tuple[str, ...] = ()
    for name, child in children(row(model, "features")):
        path = f"features.{name}"
        if not isinstance(child, dense._DenseBlock):
            inner = (
                [f"{path}.{leaf}" for leaf, _ in children(child)]
                if any(True for _ in child.children())
                else [path]
            )
            waiting += tuple(inner)
            continue
        check_ordinary(child, dense._DenseBlock, ("forward",))
        if stem is None:
            stem, waiting = waiting, ()
        for leaf, layer in children(child):
            added[f"{path}.{leaf}"] = DenseUnit(layer)
            blocks.append((*waiting, f"{path}.{leaf}"))
            waiting = ()
    if not blocks:
        raise ValueError("A DenseNet without dense blocks cannot be split. Leave it at least one.")
    blocks[-1] += waiting
    return Layout(stem or (), tuple(blocks), added, concatenates=True)
