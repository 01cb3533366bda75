"""Networks by name."""

from torch import nn

from .. import own_code
from . import names, own
from .resnet110 import resnet110
from .timm import build as build_timm
from .torchvision import build as build_torchvision


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
    """A network by its name, for `trgl.split`; not "blocks" and "wide", see `chain`.

    Args:
        name: in `trgl.models.names`, "timm:" and a name of timm's, or FILE.py:NAME of a callable
            (input_shape, num_classes) -> nn.Module, which is run.
        shape: (C, H, W) of one image.
        classes: of its own classifier, where it has one.
        stem: as `trgl.models.torchvision.build` says.
        patch: side of a Swin's or ViT's patches; 0 is its own.
        window: side of a Swin's windows; 0 fits the images.
        drop_path: probability of dropping the last block's residue, in [0, 1).

    Raises:
        ValueError: an unknown name, or images that the network cannot take.
    """
    if own_code.is_reference(name):
        return own.build(name, shape, classes)
    names.check(name)
    if name in ("blocks", "wide"):
        raise ValueError(
            f"The network {name} has as many blocks as one likes, so that its name alone does not "
            f"say it. Use trgl.models.chain or trgl.models.wide_resnet."
        )
    if name == "resnet110":
        return resnet110(shape[0])
    if name.startswith(names.TIMM):
        return build_timm(
            name.removeprefix(names.TIMM),
            shape,
            classes,
            patch=patch,
            window=window,
            drop_path=drop_path,
        )
    return build_torchvision(
        name, shape, classes, stem=stem, patch=patch, window=window, drop_path=drop_path
    )
