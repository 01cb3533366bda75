"""Small networks and data for the tests of `trgl`."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

import trgl

SHAPE = (2, 6, 6)
CLASSES = 3

Batch = tuple[Tensor, Tensor]


def batches(count: int = 3, size: int = 8, seed: int = 0) -> list[Batch]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count * size) % CLASSES
    images = torch.randn(count * size, *SHAPE, generator=generator)
    images += labels.view(-1, 1, 1, 1)  # something to learn
    return list(zip(images.split(size), labels.split(size), strict=True))


class Once:
    """A loader that shows neither its length nor its labels."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __iter__(self) -> Iterator[Any]:
        return iter(self.items)


def network(modules: int = 3, blocks: int = 3, seed: int = 0, **options: Any) -> trgl.GreedyNetwork:
    """A chain of pre-activation blocks with 4 filters; the same for the same arguments."""
    block = options.pop("block", "pre-activation")
    model = trgl.models.chain(blocks, 4, SHAPE[0], kernel_size=3, stride=1, block=block)
    head = options.pop("head", "linear")
    split = trgl.split(model, modules, SHAPE, CLASSES, head, **options)
    trgl.models.orthogonal_(split, 0.3, seed=seed)
    if isinstance(split.encoder, trgl.FrozenEncoder):
        split.calibrate(batches())
    return split


def sgd(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=1e-3)


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def differing(a: dict[str, Tensor], b: dict[str, Tensor]) -> list[str]:
    """Names whose tensors are not the same bit by bit."""
    assert a.keys() == b.keys()
    return [name for name in a if not torch.equal(a[name], b[name])]
