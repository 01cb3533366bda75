"""The state of a training on disk: sealed files, and a folder that keeps the last of them."""

from .file import DamagedError, read, write
from .folder import Checkpoints, Every

__all__ = ["Checkpoints", "DamagedError", "Every", "read", "write"]
