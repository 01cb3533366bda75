"""The states of the generators that a training may draw from."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy
import torch
from torch import Tensor

State = dict[str, Any]


def capture(device: torch.device) -> State:
    """The states of Python's, NumPy's and PyTorch's generators, and of the device's own.

    Args:
        device: of the run; its generator is there when it is a CUDA device.
    """
    version, words, gauss = random.getstate()
    return {
        "python": (version, torch.tensor(words), gauss),  # [625] int64
        "numpy": numpy.random.get_state(legacy=False),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def seed(number: int, device: torch.device) -> None:
    """Seeds PyTorch's generator of the CPU, and the device's; those of other devices stay."""
    torch.default_generator.manual_seed(number)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(number)
    elif device.type != "cpu":
        torch.get_device_module(device).manual_seed(number)


def restore(state: State, device: torch.device) -> None:
    """Puts all generators where they were.

    Args:
        state: of `capture`, also after it was in a checkpoint, which turns arrays into tensors.
        device: of the run. Without a state for it, its generator stays as it is.
    """
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
    numpy.random.set_state(_arrays(state["numpy"]))
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"], device)


@contextmanager
def spared(device: torch.device) -> Iterator[None]:
    """Whatever is drawn inside, the generators are afterwards as they were before."""
    before = capture(device)
    try:
        yield
    finally:
        restore(before, device)


def _arrays(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.numpy().astype(numpy.uint32)
    if isinstance(value, dict):
        return {key: _arrays(item) for key, item in value.items()}
    return value
