"""Residual blocks whose energy is collected by `collect_energy`.

Those of torchvision's models are imported when they are asked for: torchvision.models takes as long
to import as torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .plain import RegularizedPlain
from .pre_activation import RegularizedPreActBlock
from .residual import Regularized, RegularizedResidual

if TYPE_CHECKING:
    from .inverted import RegularizedFusedMBConv, RegularizedInvertedResidual, RegularizedMBConv
    from .resnet import RegularizedBasicBlock, RegularizedBottleneck
    from .transformer import RegularizedSwinBlock, RegularizedSwinBlockV2, RegularizedViTBlock

OF_TORCHVISION = {  # and their files
    "RegularizedBasicBlock": "resnet",
    "RegularizedBottleneck": "resnet",
    "RegularizedFusedMBConv": "inverted",
    "RegularizedInvertedResidual": "inverted",
    "RegularizedMBConv": "inverted",
    "RegularizedSwinBlock": "transformer",
    "RegularizedSwinBlockV2": "transformer",
    "RegularizedViTBlock": "transformer",
}

__all__ = [
    "Regularized",
    "RegularizedBasicBlock",
    "RegularizedBottleneck",
    "RegularizedFusedMBConv",
    "RegularizedInvertedResidual",
    "RegularizedMBConv",
    "RegularizedPlain",
    "RegularizedPreActBlock",
    "RegularizedResidual",
    "RegularizedSwinBlock",
    "RegularizedSwinBlockV2",
    "RegularizedViTBlock",
]


def __getattr__(name: str) -> Any:
    if name not in OF_TORCHVISION:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{OF_TORCHVISION[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
