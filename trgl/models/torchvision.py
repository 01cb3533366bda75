"""torchvision's networks, for images of any size and number of channels."""

from __future__ import annotations

from torch import nn

from . import names

STEMS = ("cifar", "tiny-imagenet", "imagenet")


def build(
    name: str,
    shape: tuple[int, ...],
    classes: int,
    *,
    stem: str = "imagenet",
    patch: int = 0,
    window: int = 0,
    drop_path: float = 0.0,
) -> nn.Module:
    """A network of torchvision's, without pretrained weights.

    Args:
        name: in `trgl.models.names`.
        shape: (C, H, W) of one image.
        classes: of its own classifier, which `split` drops.
        stem: "imagenet" is torchvision's. "tiny-imagenet": a ResNet's or DenseNet's convolution of
            7×7 with stride 2, without the max-pooling behind it. "cifar": 3×3 with stride 1 and no
            max-pooling; the first convolution of MobileNetV2 or EfficientNet with stride 1.
        patch: side of a Swin's or ViT's patches; 0 is its own (4, or that in the name).
        window: side of a Swin's windows; 0 is the largest up to 7 (V2: 8) that divides the map of
            the first stage. No window is larger than its stage's map.
        drop_path: of the last residual branch, growing from 0 at the first, in [0, 1); for Swin
            and EfficientNet.

    Raises:
        ValueError: images that the network cannot take.
    """
    from torchvision import models as zoo  # slow to import: only when it is asked for

    if name in names.SWINS:
        from .swin import swin

        return swin(name, shape, classes, patch, window, drop_path)
    if name in names.VITS:
        from .vit import vit

        return vit(name, shape, classes, patch)
    options = {"stochastic_depth_prob": drop_path} if name in names.EFFICIENTNETS else {}
    model: nn.Module = getattr(zoo, name)(num_classes=classes, **options)
    if name in names.RESNETS:
        _first(model, "conv1", shape[0], stem)
        if stem != "imagenet":
            model.maxpool = nn.Identity()
    elif name in names.DENSENETS:
        _first(model, "features.conv0", shape[0], stem)
        if stem != "imagenet":
            model.get_submodule("features").pool0 = nn.Identity()
    elif name in names.VGGS:
        _first(model, "features.0", shape[0], "imagenet")
    else:
        _first(model, "features.0.0", shape[0], stem)
    return model


def _first(model: nn.Module, name: str, channels: int, stem: str) -> None:
    """Puts another first convolution in place of torchvision's, where it has to differ."""
    old = model.get_submodule(name)
    assert isinstance(old, nn.Conv2d)
    if channels == old.in_channels and (stem != "cifar" or old.stride == (1, 1)):
        return
    small = stem == "cifar"
    new = nn.Conv2d(
        channels,
        old.out_channels,
        3 if small else old.kernel_size,  # type: ignore[arg-type]
        stride=1 if small else old.stride,  # type: ignore[arg-type]
        padding=1 if small else old.padding,  # type: ignore[arg-type]
        bias=old.bias is not None,
    )
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, new)
