"""The most memory that was taken so far."""

import resource
import sys

import torch


def peak_memory(device: torch.device) -> int:
    """Bytes of the device, as its allocator counts them, or on the CPU of the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
