"""Models by name: those of torchvision, timm and the papers, and those of recipes."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from trgl import models, own_code, recipes
from trgl.build import balance_of, build_model, heads_of, local_loss_of
from trgl.data.sources import SIZES
from trgl.heads import Head
from trgl.models import names
from trgl.models.papers import BLOCKS
from trgl.near import meant
from trgl.recipes import Recipe
from trgl_kernels.blocks import Regularized
from trgl_kernels.convert import twin_of

MODELS = (
    "resnet110, wide-K-M (wide-10-1, wide-2-7, ...), a ResNet, ResNeXt, Wide ResNet, VGG, "
    "DenseNet, Swin, ViT, MobileNetV2 or EfficientNet by torchvision's name (resnet50, "
    "resnext50_32x4d, swin_t, ...), vit_tiny, vit_small, timm:NAME, FILE.py:NAME "
    "of your own, which is run"
)
_WIDE = re.compile(r"wide-([1-9]\d{0,2})-([1-9]\d{0,2})")


@dataclass(frozen=True)
class Subject:
    """A model that can be built, and how it is split.

    Args:
        build: makes the model.
        shape: of one image.
        classes: number of classes.
        options: for `split`, beside modules, shape, classes and balance.
        by_hand: blocks per module, or another balance, that the papers or a recipe chose, by
            number of modules.
        modules: the number that a recipe says; empty for other models.
        batch: in images; a recipe's own.
        recompute_heads: how many heads of a recipe run again in backward, from the first one on.
        has_energies: whether there is something to penalize.
    """

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    classes: int
    options: dict[str, Any] = field(default_factory=dict)
    by_hand: dict[int, str | Sequence[int]] = field(default_factory=dict)
    modules: tuple[int, ...] = ()
    batch: int = 64
    recompute_heads: int = 0
    has_energies: bool = True

    def head(self, modules: int) -> Head | list[Head]:
        """The head, or heads, for a number of modules.

        A recipe that says one for each of its modules says the last one for a single module, and
        its kind for other numbers.
        """
        head: Head | list[Head] = self.options["head"]
        if not isinstance(head, list) or modules in self.modules:
            return head
        front = head[: len(head) - self.modules[0]]  # of an encoder that trains
        return [*front, head[-1]] if modules == 1 else "conv"


def subject(
    name: str,
    shape: tuple[int, ...] | None = None,
    classes: int | None = None,
    head: str | None = None,
) -> Subject:
    """Finds a model by its name.

    Args:
        name: in `trgl.models.names`, wide-K-M, timm:NAME, a recipe, or FILE.py:NAME of a network
            or recipe of one's own, a file that is run.
        shape: (C, H, W) of one image; None is that of the recipe's data set, or (3, 32, 32).
        classes: number of classes; None is that of the recipe's data set, or 10.
        head: of every module; None is the recipe's, "pool-linear" for transformers and timm's
            models, or "conv".

    Raises:
        ValueError: there is no such model; the message suggests the nearest name.
    """
    if name in recipes.NAMES or name in recipes.ALIASES or recipes.is_own(name):
        return _of_recipe(recipes.find(name), shape, classes, head)
    image, count = shape or (3, 32, 32), classes or 10
    if (wide := _WIDE.fullmatch(name)) is not None:
        modules, blocks = int(wide[1]), int(wide[2])
        if modules * blocks < 2:
            raise ValueError(
                f"a wide ResNet has at least 2 blocks, but {name} has 1; see wide-2-1."
            )
        stride = max(1, min(image[1:]) // 16)  # to 16×16, as in the papers
        return Subject(
            lambda: models.wide_resnet(
                modules * blocks, in_channels=image[0], stride=stride, encoder_layers=2
            ),
            image,
            count,
            {"head": head or "conv", "encoder": "stem"},
            modules=(modules,),
        )
    own = own_code.is_reference(name)
    if not own:
        _check(name)
    timm = name.startswith(names.TIMM)
    transformer = name in (*names.SWINS, *names.VITS)
    options = {"head": head or ("pool-linear" if timm or transformer else "conv")}
    if name in names.VGGS or ((own or timm) and not _has_residues(name, image, count)):
        options["energy"] = "displacement"
    return Subject(
        lambda: models.build(name, image, count),
        image,
        count,
        options,
        dict(BLOCKS.get(name, {})),
        has_energies=name not in names.DENSENETS,
    )


def _of_recipe(
    recipe: Recipe, shape: tuple[int, ...] | None, classes: int | None, head: str | None
) -> Subject:
    size, number = SIZES.get(recipe.dataset, (None, None))
    if recipe.image_size:
        size = (3 if size is None else size[0], recipe.image_size, recipe.image_size)
    image, count = shape or size, classes or number
    if image is None or count is None:
        raise ValueError(
            f"the images and classes of the data set {recipe.dataset} are those of its folders; "
            f"give --input-shape, such as 3x64x64, and --classes."
        )
    options: dict[str, Any] = {
        "head": head or heads_of(recipe),
        "encoder": None if recipe.encoder == "stem" else "stem",
        "freeze_encoder": recipe.frozen_encoder,
        "local_loss": local_loss_of(recipe),
        "shared_head": recipe.shared_head,
        "energy": recipe.energy,
    }
    return Subject(
        lambda: build_model(recipe, image, count),
        image,
        count,
        options,
        {recipe.modules: balance_of(recipe)},
        modules=(recipe.modules,),
        batch=recipe.largest_batch,
        recompute_heads=recipe.recompute_heads,
        has_energies=recipe.network not in names.DENSENETS,
    )


def _check(name: str) -> None:
    """Holds that the name is a network's; the message knows wide-K-M and the recipes too."""
    known = [n for n in names.NETWORKS if n not in ("blocks", "wide")]
    if name in known or name.startswith(names.TIMM):
        names.check(name)
        return
    own_code.check_named(name)
    every = ["wide-10-1", *known, *recipes.NAMES, *recipes.ALIASES]
    raise ValueError(
        f"there is no model {name!r}.{meant(name, every)} `trgl memory --help` says which there "
        f"are, and `trgl recipes` lists the recipes."
    )


def _has_residues(name: str, shape: tuple[int, ...], classes: int) -> bool:
    """Whether some of its blocks are known residual blocks."""
    with torch.device("meta"):
        model = models.build(name, shape, classes)
    return any(
        isinstance(layer, Regularized) or twin_of(layer) is not None for layer in model.modules()
    )
