"""Models by name: those of torchvision and of the papers, and those of recipes."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from trgl import models, recipes
from trgl.build import build_model, local_loss_of
from trgl.data.sources import SIZES

MODELS = "resnet110, a torchvision ResNet, ResNeXt or Wide ResNet (resnet50, resnext50_32x4d, ...)"


@dataclass(frozen=True)
class Subject:
    """A model that can be built, and how it is split.

    Args:
        build: makes the model.
        shape: of one image.
        classes: number of classes.
        options: for `split`, beside modules, shape, classes and balance.
        by_hand: blocks per module that the papers chose, by number of modules.
        modules: the number that a recipe says; empty for other models.
        batch: in images; a recipe's own.
        recompute_heads: how many heads of a recipe run again in backward, from the first one on.
    """

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    classes: int
    options: dict[str, Any] = field(default_factory=dict)
    by_hand: dict[int, tuple[int, ...]] = field(default_factory=dict)
    modules: tuple[int, ...] = ()
    batch: int = 64
    recompute_heads: int = 0


def subject(
    name: str,
    shape: tuple[int, ...] | None = None,
    classes: int | None = None,
    head: str | None = None,
) -> Subject:
    """Finds a model by its name.

    Args:
        name: resnet110, a name in torchvision.models that gives a ResNet, or a recipe.
        shape: (C, H, W) of one image; None is that of the recipe's data set, or (3, 32, 32).
        classes: number of classes; None is that of the recipe's data set, or 10.
        head: of every module; None is the recipe's, or "conv".

    Raises:
        ValueError: there is no such model; the message suggests the nearest name.
    """
    if name in recipes.NAMES or name in recipes.ALIASES:
        recipe = recipes.find(name)
        size, number = SIZES[recipe.dataset]
        if recipe.image_size:
            size = (size[0], recipe.image_size, recipe.image_size)
        image, count = shape or size, classes or number
        options: dict[str, Any] = {
            "head": head or recipe.head,
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
            modules=(recipe.modules,),
            batch=recipe.batch_size,
            recompute_heads=recipe.recompute_heads,
        )
    shape, classes = shape or (3, 32, 32), classes or 10
    options = {"head": head or "conv"}
    if name == "resnet110":
        return Subject(
            lambda: models.resnet110(shape[0]), shape, classes, options, models.RESNET110_BLOCKS
        )
    from torchvision import models as zoo  # slow to import: only when it is asked for

    known = [n for n in zoo.list_models(zoo) if n.startswith(("resnet", "resnext", "wide_resnet"))]
    if name not in known:
        every = ["resnet110", *known, *recipes.NAMES, *recipes.ALIASES]
        near = difflib.get_close_matches(name, every, n=1, cutoff=0.4)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ValueError(f"there is no model {name!r}.{hint} The models are {', '.join(every)}.")

    def build() -> nn.Module:
        model: nn.Module = getattr(zoo, name)(num_classes=classes)
        if shape[0] != 3:
            model.conv1 = nn.Conv2d(shape[0], 64, 7, stride=2, padding=3, bias=False)
        return model

    return Subject(build, shape, classes, options)
