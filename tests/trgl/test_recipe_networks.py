"""Every recipe of a table builds its network: weights, blocks per module, energies per step."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import torch
from torch import nn

from trgl import recipes
from trgl.build import balance_of, build_model, heads_of
from trgl.data.sources import SIZES
from trgl.layout import layout_of
from trgl.network import GreedyNetwork
from trgl.recipes import Recipe
from trgl.split import split

# weights of torchvision's networks as it states them, without their classifiers of 1000 classes
RESNETS = {
    "resnet50": 25_557_032 - 2_049_000,
    "resnet101": 44_549_160 - 2_049_000,
    "resnet152": 60_192_808 - 2_049_000,
    "resnext50_32x4d": 25_028_904 - 2_049_000,
}
VGG19_FEATURES = 143_678_248 - 123_642_856
SWIN_BODY = 28_288_354 - 769_000 - 1_536  # without the classifier and the norm in front of it
# blocks per module in the papers' experiments
BLOCKS = {
    ("resnet110", 2, "papers"): (27, 27),
    ("resnet110", 4, "papers"): (14, 14, 13, 13),
    ("resnet110", 8, "papers"): (7, 7, 7, 7, 8, 6, 6, 6),
    ("resnet110", 16, "papers"): (4,) * 6 + (3,) * 10,
    ("resnet110", 2, "papers-balanced"): (14, 40),
    ("resnet110", 4, "papers-balanced"): (6, 8, 12, 28),
    ("resnet50", 4, "papers"): (3, 4, 6, 3),
    ("resnet101", 4, "papers"): (7, 9, 9, 8),
    ("resnet101", 2, "papers"): (17, 16),
    ("resnet152", 4, "papers"): (11, 13, 13, 13),
    ("resnet152", 2, "papers"): (25, 25),
    ("resnext50_32x4d", 16, "papers"): (1,) * 16,
    ("swin_t", 4, "papers"): (2, 2, 6, 2),
    ("vgg19_bn", 4, "papers"): (4, 4, 4, 4),
}
_KEY = ("network", "modules", "blocks", "filters", "encoder", "encoder_stride", "balance")
_KEY += ("energy", "stem", "window", "head", "head_windows", "shared_head", "dataset")


def distinct() -> list[Recipe]:
    """One recipe of a table for every network, split, head and kind of images."""
    found: dict[tuple[object, ...], Recipe] = {}
    for names in list(recipes.groups().values())[1:]:
        for recipe in map(recipes.find, names):
            found.setdefault(tuple(getattr(recipe, field) for field in _KEY), recipe)
    return list(found.values())


def count(module: nn.Module | Iterable[nn.Module]) -> int:
    parts = [module] if isinstance(module, nn.Module) else module
    return sum(weight.numel() for part in parts for weight in part.parameters())


def on_meta(recipe: Recipe) -> tuple[nn.Module, GreedyNetwork]:
    shape, classes = SIZES[recipe.dataset]
    with torch.device("meta"):
        model = build_model(recipe, shape, classes)
        network = split(
            model,
            recipe.modules,
            shape,
            classes,
            head=heads_of(recipe),
            balance=balance_of(recipe),
            energy=recipe.energy,
            encoder=None if recipe.encoder == "stem" else "stem",
            freeze_encoder=recipe.frozen_encoder,
            shared_head=recipe.shared_head,
        )
    return model, network


def basic(inside: int, outside: int) -> int:
    """A basic block without a convolution on its shortcut: two 3x3 convolutions and two norms."""
    return 9 * inside * outside + 9 * outside**2 + 4 * outside


def pre_activation(channels: int, first: bool) -> int:
    """Two 3x3 convolutions, and their norms in front, of which a first block has one."""
    return 18 * channels**2 + (2 if first else 4) * channels


def encoder(channels: int, filters: int) -> int:
    """A convolution 3x3 to half the filters, one of 5x5 to all, a norm behind each."""
    half = filters // 2
    return 9 * channels * half + 2 * half + 25 * half * filters + 2 * filters


def weights_of_body(recipe: Recipe) -> int:
    channels = SIZES[recipe.dataset][0][0]
    if recipe.network in RESNETS:
        stem = 64 * channels * (49 - 9) if recipe.stem == "cifar" else 0
        return RESNETS[recipe.network] - stem
    if recipe.network == "vgg19_bn":
        return VGG19_FEATURES
    if recipe.network == "resnet110":
        stages = ((16, 16), (16, 32), (32, 64))
        blocks = sum(basic(inside, c) + 17 * basic(c, c) for inside, c in stages)
        return 27 * 16 + 2 * 16 + blocks
    if recipe.network == "swin_t":
        heads, blocks = (3, 6, 12, 24), (2, 2, 6, 2)
        sides = [SIZES[recipe.dataset][0][1] // 4 // 2**stage for stage in range(4)]
        windows = [recipe.window or max(w for w in range(1, 8) if side % w == 0) for side in sides]
        windows = [min(window, side) for window, side in zip(windows, sides, strict=True)]
        tables = [
            m * h * ((2 * w - 1) ** 2 - 13**2)
            for m, h, w in zip(blocks, heads, windows, strict=True)
        ]
        return SWIN_BODY + sum(tables)
    total = recipe.modules * recipe.blocks
    front = encoder(channels, recipe.filters)
    if recipe.network == "blocks":
        rest = (total - 1) * pre_activation(recipe.filters, False)
        return front + pre_activation(recipe.filters, True) + rest
    assert recipe.network == "wide"
    down = 2 * recipe.filters**2
    halves = ((total // 2, recipe.filters), (total - total // 2, 2 * recipe.filters))
    return (
        front
        + down
        + sum(pre_activation(c, True) + (m - 1) * pre_activation(c, False) for m, c in halves)
    )


def energies(recipe: Recipe) -> list[int]:
    if recipe.network == "vgg19_bn":
        return [2, 3, 3, 4]  # a convolution that changes the channels has no displacement
    per_block = 2 if recipe.network == "swin_t" else 1
    return [per_block * blocks for blocks in expected_blocks(recipe)]


def expected_blocks(recipe: Recipe) -> tuple[int, ...]:
    if recipe.network in ("blocks", "wide"):
        return (recipe.blocks,) * recipe.modules
    return BLOCKS[recipe.network, recipe.modules, recipe.balance]


@pytest.mark.parametrize("recipe", distinct(), ids=lambda recipe: recipe.name)
def test_a_recipe_builds_its_network(recipe: Recipe) -> None:
    model, network = on_meta(recipe)
    bodies = [module.body for module in network]
    if network.encoder is not None:
        front = network.encoder
        bodies.append(getattr(front, "body", front))
    assert count(bodies) == weights_of_body(recipe)
    assert len(network) == recipe.modules
    assert balance_of(recipe) == "depth" or tuple(balance_of(recipe)) == expected_blocks(recipe)
    assert len(layout_of(model).blocks) == sum(expected_blocks(recipe))
    assert [module.energy_terms for module in network] == energies(recipe)
    assert (recipe.encoder == "stem") == (network.encoder is None)
    heads = {id(module.head) for module in network}
    assert len(heads) == (1 if recipe.shared_head else recipe.modules)
    classes = SIZES[recipe.dataset][1]
    last = [layer for layer in network[-1].head.modules() if isinstance(layer, nn.Linear)][-1]
    assert last.out_features == classes
    if recipe.head == "mlp":
        first = next(m for m in network[-1].head.modules() if isinstance(m, nn.Linear))
        assert first.out_features == 10 * classes


def test_the_wide_networks_have_the_sizes_that_the_papers_state() -> None:
    """45 and "around 51" million weights: the body, the encoder and the last classifier."""
    for alias, millions in (("wide-2-7-cifar10", 45), ("wide-4-4-tinyimagenet", 51)):
        recipe = recipes.find(alias)
        _, network = on_meta(recipe)
        size = weights_of_body(recipe) + count(network[-1].head)
        assert round(size / 1e6) == millions
        side = network.encoder is not None and SIZES[recipe.dataset][0][1] // recipe.encoder_stride
        assert side == 16


def test_pooling_windows_of_the_papers() -> None:
    def windows(name: str) -> tuple[int, ...]:
        return recipes.find(name).head_windows

    assert windows("resnet50-tinyimagenet") == (16, 8, 8, 4)
    assert windows("resnet101-tinyimagenet") == (8, 8, 8, 4)
    assert windows("resnet152-cifar100") == (8, 4)
    assert windows("t8-resnet101-cifar100-full-multilap-k2") == (8, 4)
    # 16 where a module ends with 16 or 32 channels, in the first 36 blocks, else 8
    assert windows("t3-resnet110-stl10-full-parallel-k2") == (16, 8)
    assert windows("t3-resnet110-stl10-full-parallel-k4") == (16, 16, 8, 8)
    assert windows("t3-resnet110-stl10-full-parallel-k16") == (16,) * 10 + (8,) * 6
