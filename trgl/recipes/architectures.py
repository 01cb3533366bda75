"""The networks of the published tables, each with its split and its heads, as settings."""

from __future__ import annotations

from trgl.models.papers import windows_of
from trgl.recipes.published import Published
from trgl.recipes.settings import SCRIPTS, UNPUBLISHED, Settings

_STEM: Settings = {
    UNPUBLISHED + "the first layers have no classifier of their own": {"encoder": "stem"}
}
_ALL_POSITIONS: Settings = {UNPUBLISHED + "pooling over all positions": {"head_windows": ()}}
MLP: Settings = {
    "the authors' experiments; the text says one or two linear layers": {
        "head": "mlp",
        "head_windows": (),
    }
}


def resnet(row: Published, network: str, stem: str) -> Settings:
    """A bottleneck ResNet of torchvision."""
    return {
        row.place: {"network": network},
        SCRIPTS: {
            "stem": stem,
            "balance": "papers",
            "head_windows": windows_of(network, row.modules),
        },
        **_STEM,
    }


def resnet110(row: Published) -> Settings:
    """ResNet-110 on 96x96 pixels."""
    balanced = row.regime.endswith("balanced")
    return {
        row.place: {"network": "resnet110"},
        SCRIPTS: {
            "balance": "papers-balanced" if balanced else "papers",
            "head_windows": windows_of("resnet110", row.modules, balanced),
        },
        **_STEM,
    }


def vgg19(row: Published) -> Settings:
    """VGG-19, whose layers have displacements instead of residues."""
    return {
        UNPUBLISHED + "with batch normalization: without, an initial gain of 0.1 would shrink the "
        "signal tenfold in every layer": {"network": "vgg19_bn"},
        UNPUBLISHED + "four of the sixteen convolutions in each module": {"balance": "papers"},
        UNPUBLISHED + "each layer that keeps its shape, convolution, norm and ReLU": {
            "energy": "displacement"
        },
        **_ALL_POSITIONS,
    }


def wide(row: Published) -> Settings:
    """The wide K-M ResNet, by K and M of its name."""
    modules, blocks = map(int, row.network.removeprefix("wide-").split("-"))
    assert modules == row.modules
    return {
        row.place: {
            "network": "wide",
            "blocks": blocks,
            "filters": 256,
            "balance": "depth",
        },
        "NeurIPS 2023, appendix G": {"encoder": "trained"},  # "block 0 being the encoder"
        SCRIPTS: {"encoder_stride": 4 if row.data == "tinyimagenet" else 2},  # to 16x16
        UNPUBLISHED
        + "the 20-1 networks'; 2-7 then has 45.8 million weights, heads included, and 45 "
        "are published; 4-4 has 48.2 without its heads and 55.0 with them, and 51 are": {
            "encoder_layers": 2,
            "encoder_kernel": 5,
        },
        **_ALL_POSITIONS,
    }


def resnext(row: Published) -> Settings:
    """ResNeXt-50-32x4d, one block in each module."""
    return {
        row.place: {"network": "resnext50_32x4d"},
        SCRIPTS: {"energy": "displacement", "balance": "papers"},
        UNPUBLISHED + "as the ResNets on CIFAR-100": {"stem": "cifar"},
        **_STEM,
        **_ALL_POSITIONS,
    }


def twenty(row: Published) -> Settings:
    """The 20-1 network with one head and a pretrained encoder that does not move."""
    return {
        row.place: {
            "network": "blocks",
            "blocks": 1,
            "filters": int(row.network.removeprefix("resnet20x1-")),
            "block": "pre-activation",
            "balance": "depth",
            "shared_head": True,
        },
        SCRIPTS: {
            "encoder": "pretrained",
            "encoder_layers": 2,
            "encoder_kernel": 5,
            "encoder_stride": 2,
        },
        UNPUBLISHED + "how the autoencoder was trained": {
            "pretrain_epochs": 50,
            "pretrain_learning_rate": 0.001,
        },
        **MLP,
    }
