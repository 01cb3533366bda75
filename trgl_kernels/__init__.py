"""Fused operators that compute a residual block's output and its kinetic energy in one pass."""

from . import autograd as _autograd
from . import extension as _extension
from . import schema as _schema  # noqa: F401 (defines the operators)
from .batch_norm_relu import batch_norm_relu
from .batch_norm_residual_energy import batch_norm_residual_energy
from .blocks import (
    RegularizedBasicBlock,
    RegularizedBottleneck,
    RegularizedFusedMBConv,
    RegularizedInvertedResidual,
    RegularizedMBConv,
    RegularizedPlain,
    RegularizedPreActBlock,
    RegularizedResidual,
    RegularizedSwinBlock,
    RegularizedSwinBlockV2,
    RegularizedViTBlock,
)
from .boundary import ModuleBoundary, release
from .collect import collect_energy
from .convert import regularize
from .displacement_energy import displacement_energy
from .extension import info
from .residual_energy import residual_energy
from .residual_energy_layer_norm import residual_energy_layer_norm

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
