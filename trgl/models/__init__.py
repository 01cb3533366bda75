"""The papers' own networks, as bodies for `trgl.split`: an encoder and residual blocks in a row."""

from .chains import chain, wide_resnet
from .initialize import orthogonal_
from .resnet110 import RESNET110_BLOCKS, resnet110

__all__ = ["RESNET110_BLOCKS", "chain", "orthogonal_", "resnet110", "wide_resnet"]
