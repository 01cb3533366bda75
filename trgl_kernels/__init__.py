"""Fused operators that compute a residual block's output and its kinetic energy in one pass.

Operators: `residual_energy`, `batch_norm_residual_energy`, `batch_norm_relu`,
`residual_energy_layer_norm`, `displacement_energy`. Blocks: `regularize` converts a model, the
classes `Regularized...` are the blocks themselves, and `collect_energy` gathers their energies.
Memory: `ModuleBoundary`, `release`. `info` says which engine serves what.
"""

from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

from . import autograd as _autograd
from . import blocks as _blocks
from . import extension as _extension
from . import schema as _schema  # noqa: F401 (defines the operators)
from .batch_norm_relu import batch_norm_relu
from .batch_norm_residual_energy import batch_norm_residual_energy
from .blocks import RegularizedPlain, RegularizedPreActBlock, RegularizedResidual
from .boundary import ModuleBoundary, release
from .collect import collect_energy
from .convert import regularize
from .displacement_energy import displacement_energy
from .extension import info
from .residual_energy import residual_energy
from .residual_energy_layer_norm import residual_energy_layer_norm

if _TYPE_CHECKING:
    from .blocks import (
        RegularizedBasicBlock,
        RegularizedBottleneck,
        RegularizedFusedMBConv,
        RegularizedInvertedResidual,
        RegularizedMBConv,
        RegularizedSwinBlock,
        RegularizedSwinBlockV2,
        RegularizedViTBlock,
    )

_twins = None if _extension.load().loaded else _autograd.register()

try:
    from . import cuda as _cuda
except ImportError as error:  # no Triton on this platform: the reference runs
    _extension.without_triton(str(error))
else:
    _cuda.register()

__all__ = [
    "ModuleBoundary",
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
    "batch_norm_relu",
    "batch_norm_residual_energy",
    "collect_energy",
    "displacement_energy",
    "info",
    "regularize",
    "release",
    "residual_energy",
    "residual_energy_layer_norm",
]


def __getattr__(name: str) -> _Any:
    if name not in _blocks.OF_TORCHVISION:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(_blocks, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
