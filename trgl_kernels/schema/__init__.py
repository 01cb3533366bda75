"""The operators as PyTorch knows them, one file each; importing this defines them."""

from . import batch_norm_residual_energy, residual_energy

__all__ = ["batch_norm_residual_energy", "residual_energy"]
