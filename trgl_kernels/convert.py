"""`regularize`: an existing model with regularized blocks in place of its own."""

import sys
from typing import TypeVar

from torch import nn

from .blocks import Regularized, RegularizedPlain
from .blocks.plain import has_plain_layers
from .blocks.residual import ENERGIES, RECOMPUTE
from .checks import refusal

M = TypeVar("M", bound=nn.Module)


def twin_of(block: nn.Module) -> type[Regularized] | None:
    """The regularized class of a known residual block; None for anything else."""
    if "forward" in vars(block):
        return None  # it would go on doing what it does, and report nothing
    # what a block comes from is there
    if type(block).__module__.startswith("torchvision."):
        from .blocks import torchvision

        twin = torchvision.TWINS.get(type(block))
        # without a shortcut there is no residue
        return twin if getattr(block, "use_res_connect", True) else None
    if type(block).__module__.startswith("timm."):
        from .blocks import timm

        twin = timm.TWINS.get(type(block))
        return twin if twin is not None and timm.convertible(block) else None
    return None


def regularize(model: M, recompute: str | None = None, energy: str = "residue") -> M:
    """Swaps every known residual block of `model`, in place, for its regularized twin.

    Modules, parameters, buffers, hooks, state_dict keys and outputs stay as they are; inside
    `collect_energy()` the blocks report their energies as well. Known are the residual blocks of

    - torchvision's ResNet, ResNeXt, Wide ResNet, Swin (V1 and V2), ViT, MobileNetV2, EfficientNet
      and EfficientNetV2; with energy="displacement" also the layers of its VGG;
    - timm's ResNets, vision transformer and Swin (V1).

    Left as they are: blocks without a shortcut (MobileNetV2, EfficientNet), timm's ResNet blocks
    with squeeze-and-excitation, DropBlock or anti-aliasing, subclasses of these blocks, blocks
    with a `forward` of their own, and all else. Regularized blocks that are already there take on
    `energy`, and `recompute` where it is given.

        model = regularize(torchvision.models.resnet50(weights="DEFAULT"))

    Args:
        model: any module; it may be a block itself.
        recompute: what backward computes again instead of keeping it: "none"; "residue", residues
            that no BN produced; "activation", these and the normalized activations of ResNets. See
            `blocks.Regularized.with_recompute`. None is "none" until `trgl.split` chooses.
        energy: "residue", ‖r‖² as r enters the addition, or "displacement",
            ‖y − shortcut(x)‖² after the activation.

    Returns:
        The model.

    Raises:
        ValueError: no module, no known block in it, or another `recompute` or `energy`.
    """
    if not isinstance(model, nn.Module):
        raise refusal(
            "regularize: model must be an nn.Module",
            repr(model) if isinstance(model, str) else type(model).__name__,
            "Build the model first, such as torchvision.models.resnet18().",
        )
    for name, value, values in (
        ("recompute", recompute, (None, *RECOMPUTE)),
        ("energy", energy, ENERGIES),
    ):
        if value not in values:
            raise refusal(
                f"regularize: {name} must be one of {', '.join(filter(None, values))}",
                repr(value),
                "Leave it out for the default.",
            )
    vgg = sys.modules.get("torchvision.models.vgg")  # if it is not there, no model comes from it
    vggs = [] if vgg is None else [m for m in model.modules() if type(m) is vgg.VGG]
    rows = [m.get_submodule("features") for m in vggs]
    plain = [features for features in rows if has_plain_layers(features)]
    for module in model.modules():
        if isinstance(module, RegularizedPlain):
            module.with_energy(energy)  # refuses "residue" before anything is changed
    if energy == "displacement":
        for features in plain:
            features.__class__ = RegularizedPlain
    found = 0
    for module in model.modules():
        twin = twin_of(module)
        if twin is not None:
            # the object stays, and with it its hooks and whatever else refers to it
            module.__class__ = twin
        if isinstance(module, Regularized):
            module.with_energy(energy)
            if recompute is not None:
                module.with_recompute(recompute)
            found += 1
    if not found:
        raise refusal(
            "regularize: the model must have a residual block that is known",
            f"{type(model).__name__} with none",
            "A VGG has displacements but no residues: use energy='displacement'."
            if plain
            else "Build it from trgl_kernels.RegularizedResidual, which takes any branch.",
        )
    return model
