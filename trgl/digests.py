"""What tells images apart, and whether weights or generators changed."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn


def keys_of(
    images: Tensor,  # [N, *]
) -> list[bytes]:
    """What tells the images of a batch apart: a digest of the bytes of each."""
    rows = images.detach().cpu().contiguous().view(torch.uint8).flatten(1).numpy()
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
    """A digest of the weights and buffers of the first 0, 1, … of the modules."""
    digest = hashlib.blake2b(digest_size=16)
    found = [digest.digest()]
    for module in modules:
        for name, tensor in module.state_dict().items():
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            if tensor.numel():
                flat = tensor.detach().cpu().contiguous().flatten()
                digest.update(flat.view(torch.uint8).numpy())
        found.append(digest.digest())
    return found


def generators(device: torch.device) -> list[Tensor]:
    """The states of the generators that layers on `device` draw from."""
    states = [torch.random.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return states
