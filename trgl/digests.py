"""What tells images apart, and whether weights or generators changed."""

import hashlib
import os
import pickle
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


def keys_of(
    images: Tensor,  # [N, *]
) -> list[bytes]:
    """What tells the images of a batch apart: a digest of the bytes of each."""
    rows = _bytes_of(images).reshape(images.shape[0], -1)
    return [hashlib.blake2b(row, digest_size=16).digest() for row in rows]


def digest_of(tensors: Sequence[Tensor], text: str = "") -> str:
    """A digest of the values of tensors, their types and shapes, and of a text."""
    digest = hashlib.blake2b(text.encode(), digest_size=16)
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        if tensor.numel():
            flat = tensor.detach().cpu().contiguous().flatten()
            digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def fingerprints(modules: Sequence[nn.Module]) -> list[bytes]:
    """A digest of the state of the first 0, 1, … of the modules: weights, buffers, extra state.

    What cannot be written, such as an extra state that refuses to be pickled, counts as changed.
    """
    digest = hashlib.blake2b(digest_size=16)
    found = [digest.digest()]
    for module in modules:
        for name, value in module.state_dict().items():
            if isinstance(value, Tensor):
                digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
                digest.update(_bytes_of(value))
            else:
                digest.update(f"{name} {type(value)}".encode())
                digest.update(_pickled(value))
        found.append(digest.digest())
    return found


def _bytes_of(tensor: Tensor) -> Any:
    # a copy: whatever storage NumPy has seen can never be resized or released again
    flat = tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format).flatten()
    return flat.view(torch.uint8).numpy() if flat.numel() else b""


def _pickled(value: object) -> bytes:
    try:
        return pickle.dumps(value)
    except Exception:  # whatever a user's class raises
        return os.urandom(16)


def generators(device: torch.device) -> list[Tensor]:
    """The states of the generators that layers on `device` draw from."""
    states = [torch.random.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return states
