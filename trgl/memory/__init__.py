"""What training holds in memory: counted and predicted on tensors without data."""

from .partition import balanced
from .saved import SavedBytes, SavedCounter, count_module, count_network, count_whole

__all__ = [
    "SavedBytes",
    "SavedCounter",
    "balanced",
    "count_module",
    "count_network",
    "count_whole",
]
