"""Networks in modules: blocks, energies, published splits and windows."""

import pytest
from meta import on_meta, recipe_of, split_on_meta
from torch import nn

from trgl.layout import layout_of
from trgl.models import papers
from trgl.zoo import subject

# network, modules, balance, options of the recipe; blocks and energies of every module
SPLITS = [
    ("resnet50", 4, "papers", {}, (3, 4, 6, 3), (3, 4, 6, 3)),
    ("resnet101", 2, "papers", {}, (17, 16), (17, 16)),
    ("resnet101", 4, "papers", {}, (7, 9, 9, 8), (7, 9, 9, 8)),
    ("resnet152", 2, "papers", {}, (25, 25), (25, 25)),
    ("resnet152", 4, "papers", {}, (11, 13, 13, 13), (11, 13, 13, 13)),
    ("resnet110", 2, "papers", {}, (27, 27), (27, 27)),
    ("resnet110", 4, "papers", {}, (14, 14, 13, 13), (14, 14, 13, 13)),
    ("resnet110", 8, "papers", {}, (7, 7, 7, 7, 8, 6, 6, 6), (7, 7, 7, 7, 8, 6, 6, 6)),
    ("resnet110", 16, "papers", {}, (4,) * 6 + (3,) * 10, (4,) * 6 + (3,) * 10),
    ("resnet110", 2, "papers-balanced", {}, (14, 40), (14, 40)),
    ("resnet110", 4, "papers-balanced", {}, (6, 8, 12, 28), (6, 8, 12, 28)),
    ("resnext50_32x4d", 16, "papers", {}, (1,) * 16, (1,) * 16),
    # the workshop's energy: only where the shape stays, or a shortcut says from where
    ("resnext50_32x4d", 16, "papers", {"energy": "displacement"}, (1,) * 16, (1,) * 16),
    ("wide_resnet50_2", 4, "depth", {}, (4, 4, 4, 4), (4, 4, 4, 4)),
    # layers whose shape stays: all but the first, and those that change the channels
    ("vgg19", 4, "papers", {"energy": "displacement"}, (4, 4, 4, 4), (2, 3, 3, 4)),
    ("vgg19_bn", 4, "papers", {"energy": "displacement"}, (4, 4, 4, 4), (2, 3, 3, 4)),
    ("swin_t", 4, "papers", {"head": "pool-linear"}, (2, 2, 6, 2), (4, 4, 12, 4)),
    ("vit_tiny", 4, "depth", {"head": "pool-linear"}, (3, 3, 3, 3), (6, 6, 6, 6)),
    # 17 inverted residuals, of which 10 have a shortcut
    ("mobilenet_v2", 2, "depth", {}, (9, 8), (5, 5)),
    ("efficientnet_b0", 4, "depth", {}, (4, 4, 4, 4), (1, 3, 2, 3)),
    ("densenet121", 4, "depth", {}, (15, 15, 14, 14), (0, 0, 0, 0)),
    ("wide", 10, "papers", {"filters": 256}, (1,) * 10, (1,) * 10),
    ("wide", 2, "papers", {"filters": 256, "blocks": 7}, (7, 7), (7, 7)),
    ("wide", 50, "depth", {"filters": 256}, (1,) * 50, (1,) * 50),
    ("blocks", 20, "papers", {"filters": 100}, (1,) * 20, (1,) * 20),
]


@pytest.mark.parametrize(
    ("name", "modules", "balance", "options", "blocks", "energies"),
    SPLITS,
    ids=[f"{row[0]}-{row[1]}-{row[2]}-{n}" for n, row in enumerate(SPLITS)],
)
def test_blocks_and_energies_of_every_module(name, modules, balance, options, blocks, energies):
    recipe = recipe_of(name, modules, balance, **options)
    net = split_on_meta(recipe, (3, 32, 32), 100)
    assert len(net) == modules
    assert tuple(module.energy_terms for module in net) == energies
    assert sum(blocks) == sum(len(module.body.units) for module in net) - plain_units(net)
    assert tuple(blocks_in(module) for module in net) == blocks


def blocks_in(module):
    """Blocks of a module: its composite layers, or its convolutions where all layers are plain."""
    units = module.body.units
    composite = [u for u in units if list(u.children()) and not is_join(u)]
    return len(composite) or sum(isinstance(u, nn.Conv2d) for u in units)


def is_join(unit):
    return type(unit).__name__ == "PatchMerging"


def plain_units(net):
    return sum(len(module.body.units) - blocks_in(module) for module in net)


def test_every_published_split_is_of_all_blocks():
    for table in (papers.BLOCKS, papers.BALANCED):
        for name, splits in table.items():
            model = on_meta(name, (3, 32, 32), 10)
            total = len(layout_of(model).blocks)
            for modules, blocks in splits.items():
                assert len(blocks) == modules
                assert sum(blocks) == total, name
    with pytest.raises(ValueError, match=r"not resnet50 in 3\. Take the balance depth"):
        papers.blocks_of("resnet50", 3)
    with pytest.raises(ValueError, match="with balanced memory, but not resnet50 in 4"):
        papers.blocks_of("resnet50", 4, balanced=True)


def test_published_windows_fit_the_maps_of_the_modules():
    for name, modules, shape, stem, cells in [
        ("resnet110", 2, (3, 96, 96), "cifar", [9, 9]),
        ("resnet110", 4, (3, 96, 96), "cifar", [36, 9, 9, 9]),
        ("resnet110", 16, (3, 96, 96), "cifar", [36] * 4 + [9] * 12),
        ("resnet101", 2, (3, 32, 32), "cifar", [1, 1]),
        ("resnet152", 4, (3, 64, 64), "tiny-imagenet", [4, 1, 1, 1]),
        ("resnet50", 4, (3, 64, 64), "tiny-imagenet", [4, 4, 1, 1]),
    ]:
        windows = papers.windows_of(name, modules)
        recipe = recipe_of(name, modules, "papers", stem=stem, head_windows=windows)
        net = split_on_meta(recipe, shape, 10)
        for module, number in zip(net, cells, strict=True):
            conv, linear = module.head[0], module.head[-1]
            assert linear.in_features == number * conv.out_channels, (name, modules)
    assert papers.windows_of("swin_t", 4) == ()


def test_models_that_memory_knows_have_heads_and_energies_that_fit():
    assert subject("swin_t").options == {"head": "pool-linear"}
    assert subject("vgg19").options == {"head": "conv", "energy": "displacement"}
    assert subject("vgg19").by_hand == {4: (4, 4, 4, 4)}
    assert not subject("densenet121").has_energies
    assert subject("resnet152").by_hand[2] == (25, 25)
    recipe = subject("cifar10-resnet18-k4")
    assert recipe.by_hand == {4: "depth"}
