"""From a recipe to a network: layers, split, heads, initialization."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import nn

from trgl import heads, models
from trgl.data.sampling import HEADS, generator
from trgl.heads import Head
from trgl.losses import LOSSES, LossBuilder
from trgl.network import GreedyNetwork
from trgl.recipes import Recipe
from trgl.split import split


class Images(Protocol):
    """What a network is built for, such as a data set."""

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one image."""

    @property
    def num_classes(self) -> int:
        """How many classes there are."""


def build_network(recipe: Recipe, images: Images, seed: int) -> GreedyNetwork:
    """The network of a recipe for images of one shape, initialized from a seed alone.

    Args:
        recipe: the configuration.
        images: gives channels, size and number of classes.
        seed: of every weight.

    Returns:
        The network on the CPU. A frozen encoder still has to be calibrated or pretrained.

    Raises:
        ValueError: a recipe whose network cannot take the images, or be split as it says.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = split(
            build_model(recipe, images.input_shape, images.num_classes),
            modules=recipe.modules,
            input_shape=images.input_shape,
            num_classes=images.num_classes,
            head=heads_of(recipe),
            local_loss=local_loss_of(recipe),
            balance=balance_of(recipe),
            energy=recipe.energy,
            encoder=None if recipe.encoder == "stem" else "stem",
            freeze_encoder=recipe.frozen_encoder,
            shared_head=recipe.shared_head,
            recompute=recipe.recompute,
            recompute_heads=recipe.recompute_heads,
            autocast=autocast_of(recipe),
            seed=generator(seed, HEADS).initial_seed(),  # the body's first draws are another's
        )
        if recipe.init == "orthogonal":
            models.orthogonal_(network, gain=recipe.init_gain, seed=seed)
        elif recipe.init == "truncated-normal":
            models.truncated_normal_(network, std=recipe.init_std, seed=seed)
    return network


def build_model(recipe: Recipe, shape: tuple[int, ...], classes: int) -> nn.Module:
    """The model of a recipe before it is split.

    Args:
        recipe: the configuration.
        shape: (C, H, W) of one image.
        classes: of the model's own classifier, where it has one.

    Raises:
        ValueError: a recipe whose network cannot be built.
    """
    if recipe.network == "blocks":
        return models.chain(
            blocks=recipe.modules * recipe.blocks,
            filters=recipe.filters,
            in_channels=shape[0],
            kernel_size=recipe.encoder_kernel,
            stride=recipe.encoder_stride,
            encoder_layers=recipe.encoder_layers,
            block=recipe.block,
        )
    if recipe.network == "wide":
        return models.wide_resnet(
            blocks=recipe.modules * recipe.blocks,
            filters=recipe.filters,
            in_channels=shape[0],
            kernel_size=recipe.encoder_kernel,
            stride=recipe.encoder_stride,
            encoder_layers=recipe.encoder_layers,
        )
    return models.build(
        recipe.network,
        shape,
        classes,
        stem=recipe.stem,
        patch=recipe.patch,
        window=recipe.window,
        drop_path=recipe.drop_path,
    )


def balance_of(recipe: Recipe) -> str | Sequence[int]:
    """The balance of a recipe as `split` takes it.

    Raises:
        ValueError: the papers have no such split.
    """
    balance = recipe.counts()
    if balance not in ("papers", "papers-balanced"):
        return balance
    if recipe.network in ("blocks", "wide") and balance == "papers":
        return (recipe.blocks,) * recipe.modules
    return models.blocks_of(recipe.network, recipe.modules, balance == "papers-balanced")


def autocast_of(recipe: Recipe) -> torch.dtype | None:
    """The type of a recipe's autocast."""
    return None if recipe.autocast == "none" else getattr(torch, recipe.autocast)


def heads_of(recipe: Recipe) -> Head | list[Head]:
    """The heads of a recipe as `split` takes them: one for all, or a list of one for each."""
    windows = recipe.head_windows
    if not windows:
        return recipe.head
    built: list[Head] = [functools.partial(heads.conv, window=window) for window in windows]
    return built[0] if len(built) == 1 else built


def local_loss_of(recipe: Recipe) -> LossBuilder | None:
    """The local loss of a recipe as `split` takes it."""
    if recipe.local_loss == "none":
        return None
    build = LOSSES[recipe.local_loss]
    weight = recipe.local_loss_weight
    return functools.partial(build, weight=weight) if weight else build  # type: ignore[call-arg]
