"""The papers' own networks, as bodies for `trgl.split`: an encoder and residual blocks in a row."""

from .build import build
from .chains import chain, wide_resnet
from .initialize import orthogonal_, truncated_normal_
from .papers import blocks_of, windows_of
from .resnet110 import RESNET110_BLOCKS, resnet110

__all__ = [
    "RESNET110_BLOCKS",
    "blocks_of",
    "build",
    "chain",
    "orthogonal_",
    "resnet110",
    "truncated_normal_",
    "wide_resnet",
    "windows_of",
]
