"""Module-wise training of networks with transport regularization."""

from . import data, heads, losses, memory, metrics, models, recipes
from .body import Body
from .checkpoint import Checkpoints
from .encoder import FrozenEncoder
from .layout import Layout
from .metrics import EpochRecord, Evaluation, History, mean_interval, paired_interval
from .network import GreedyModule, GreedyNetwork
from .optimizers import without_decay
from .schedulers import Schedule
from .split import split
from .trainer import DeviceMemoryError, DivergenceError, Stopped, Trainer
from .transport import Multipliers, Transport

__all__ = [
    "Body",
    "Checkpoints",
    "DeviceMemoryError",
    "DivergenceError",
    "EpochRecord",
    "Evaluation",
    "FrozenEncoder",
    "GreedyModule",
    "GreedyNetwork",
    "History",
    "Layout",
    "Multipliers",
    "Schedule",
    "Stopped",
    "Trainer",
    "Transport",
    "data",
    "heads",
    "losses",
    "mean_interval",
    "memory",
    "metrics",
    "models",
    "paired_interval",
    "recipes",
    "split",
    "without_decay",
]
