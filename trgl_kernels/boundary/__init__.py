"""The module boundary: what a module's step made is gone when the step ends, and is counted."""

from .counters import BoundaryWarning, Counters, Held
from .memory import BoundaryError, live_bytes, trim
from .release import release
from .scope import ModuleBoundary, current

__all__ = [
    "BoundaryError",
    "BoundaryWarning",
    "Counters",
    "Held",
    "ModuleBoundary",
    "current",
    "live_bytes",
    "release",
    "trim",
]
