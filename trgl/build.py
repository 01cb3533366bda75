"""From a recipe to a network: layers, split, heads, initialization."""

from __future__ import annotations

import torch
from torch import nn

from trgl import models
from trgl.data import ImageData
from trgl.data.sampling import HEADS, generator
from trgl.network import GreedyNetwork
from trgl.recipes import Recipe
from trgl.split import split


def build_network(recipe: Recipe, images: ImageData, seed: int) -> GreedyNetwork:
    """The network of a recipe for images of one shape, initialized from a seed alone.

    Args:
        recipe: the configuration.
        images: gives channels, size and number of classes.
        seed: of every weight.

    Returns:
        The network on the CPU. A frozen encoder still has to be calibrated.

    Raises:
        ValueError: a recipe whose network cannot take the images, or be split as it says.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        blocks = recipe.network == "blocks"
        network = split(
            build_model(recipe, images.input_shape[0], images.num_classes),
            modules=recipe.modules,
            input_shape=images.input_shape,
            num_classes=images.num_classes,
            head=recipe.head,
            balance="depth",
            energy=recipe.energy,
            encoder="stem" if blocks else None,
            freeze_encoder=recipe.freeze_encoder,
            shared_head=recipe.shared_head,
            recompute_heads=recipe.recompute_heads,
            seed=generator(seed, HEADS).initial_seed(),  # the body's first draws are another's
        )
        if recipe.init_gain:
            models.orthogonal_(network, gain=recipe.init_gain, seed=seed)
    return network


def build_model(recipe: Recipe, channels: int, classes: int) -> nn.Module:
    """The model of a recipe before it is split.

    Args:
        recipe: the configuration.
        channels: of the images.
        classes: of the model's own classifier, where it has one.

    Raises:
        ValueError: a recipe whose network cannot be built.
    """
    if recipe.network == "blocks":
        return models.chain(
            blocks=recipe.modules * recipe.blocks,
            filters=recipe.filters,
            in_channels=channels,
            kernel_size=recipe.encoder_kernel,
            stride=recipe.encoder_stride,
            block=recipe.block,
        )
    from torchvision import models as zoo  # slow to import: only when it is asked for

    model: nn.Module = getattr(zoo, recipe.network)(num_classes=classes)
    if recipe.stem == "cifar":
        model.conv1 = nn.Conv2d(channels, 64, 3, stride=1, padding=1, bias=False)
    elif channels != 3:
        model.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
    if recipe.stem != "imagenet":
        model.maxpool = nn.Identity()
    return model
