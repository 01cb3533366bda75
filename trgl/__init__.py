"""Module-wise training of networks with transport regularization.

    network = trgl.split(model, modules=4, input_shape=(3, 32, 32), num_classes=10)
    trainer = trgl.Trainer(network, optimizer=..., transport=trgl.Transport(tau=0.5), epochs=10)
    history = trainer.fit(train, test)

Start with `split`, `Trainer`, `Transport` and `History`. Then: `Schedule`, `Checkpoints`,
`Multipliers`, `Layout` (for networks of your own), and the modules `data`, `models`, `heads`,
`losses`, `memory` and `recipes`.
"""

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
