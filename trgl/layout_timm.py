"""Which layers of a model of timm's are its stem and which are its blocks."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

from torch import nn

from .sequence import Layout, check_ordinary, children, loaded, resnet, row, sequential
from .tokens import ClassToken, Loose, Positions

_FORWARD = ("forward", "forward_features")


def layout_of(model: nn.Module) -> Layout | None:
    """Finds the blocks of a ResNet, vision transformer, Swin, ConvNeXt, RegNet or EfficientNet.

    Returns:
        None where the model is no such model of timm's.

    Raises:
        ValueError: one that does more than run its layers in order.
    """
    for file, (name, read) in _FAMILIES.items():
        module = loaded(f"timm.models.{file}")
        if module is not None and isinstance(model, getattr(module, name)):
            check_ordinary(model, getattr(module, name), _FORWARD, "timm")
            if getattr(model, "grad_checkpointing", False):
                raise ValueError(
                    f"A {type(model).__name__} that checkpoints its stages runs no longer layer by "
                    f"layer. Call set_grad_checkpointing(False); split takes recompute_heads."
                )
            return read(model, module)
    return None


def _resnet(model: nn.Module, _: ModuleType) -> Layout:
    return resnet(model, ("conv1", "bn1", "act1", "maxpool"))


def _vit(model: Any, module: ModuleType) -> Layout:
    kind = module.VisionTransformer
    check_ordinary(model, kind, (*_FORWARD, "_pos_embed"), "timm")
    if model.dynamic_img_size:
        raise ValueError(
            "A vision transformer is split for images of one size, but this one resizes its table "
            "of positions to every image. Build it with dynamic_img_size=False and img_size."
        )
    blocks = row(model, "blocks")
    # tokens stand in front of the rows, the class first: that is prepended last
    tokens = {
        name: ClassToken(token)
        for name in ("reg_token", "cls_token")
        if isinstance(token := getattr(model, name), nn.Parameter)
    }
    table: dict[str, Loose] = {}
    if isinstance(model.pos_embed, nn.Parameter):
        table["pos_embed"] = Positions(model.pos_embed)
    added = table | tokens if model.no_embed_class else tokens | table
    return Layout(
        ("patch_embed", *added, "pos_drop", "patch_drop", "norm_pre"),
        tuple((f"blocks.{name}",) for name, _ in children(blocks)),
        added,
    )


def _stages(
    stem: tuple[str, ...], stages: str, stage: str, channels_last: bool = False
) -> Callable[[nn.Module, ModuleType], Layout]:
    """For models whose stages are a downsampling and then blocks."""

    def read(model: nn.Module, module: ModuleType) -> Layout:
        blocks: list[tuple[str, ...]] = []
        waiting: tuple[str, ...] = ()
        for number, one in children(row(model, stages)):
            check_ordinary(one, getattr(module, stage), ("forward",), "timm")
            prefix = f"{stages}.{number}"
            waiting += (f"{prefix}.downsample",)
            for name, _ in children(row(one, "blocks")):
                blocks.append((*waiting, f"{prefix}.blocks.{name}"))
                waiting = ()
        return Layout(stem, tuple(blocks), channels_last=channels_last)

    return read


def _regnet(model: nn.Module, module: ModuleType) -> Layout:
    blocks = []
    for stage in ("s1", "s2", "s3", "s4"):
        one = model.get_submodule(stage)
        check_ordinary(one, module.RegStage, ("forward",), "timm")
        blocks += [(f"{stage}.{name}",) for name, _ in children(one)]
    return Layout(("stem",), tuple(blocks))


def _efficientnet(model: nn.Module, _: ModuleType) -> Layout:
    layout = sequential(row(model, "blocks"), "blocks.")
    return Layout(("conv_stem", "bn1", *layout.stem), layout.blocks)


_FAMILIES: dict[str, tuple[str, Callable[[nn.Module, ModuleType], Layout]]] = {
    "resnet": ("ResNet", _resnet),
    "vision_transformer": ("VisionTransformer", _vit),
    "swin_transformer": (
        "SwinTransformer",
        _stages(("patch_embed",), "layers", "SwinTransformerStage", channels_last=True),
    ),
    "convnext": ("ConvNeXt", _stages(("stem",), "stages", "ConvNeXtStage")),
    "regnet": ("RegNet", _regnet),
    "efficientnet": ("EfficientNet", _efficientnet),
}
