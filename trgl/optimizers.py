"""Optimizers of one module: fused SGD, what weight decay leaves alone, and several as one."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, Optimizer

# what stands beside layers in Transformers of torchvision and timm: tables of positions, tokens
# that are learned, and Swin V2's temperatures with the network of its positions
BESIDE_LAYERS = (
    "relative_position_bias_table",
    "pos_embedding",
    "pos_embed",
    "absolute_pos_embed",
    "class_token",
    "cls_token",
    "logit_scale",
    "cpb_mlp",
)


def undecayed(network: nn.Module) -> Iterator[nn.Parameter]:
    """Parameters of at most one dimension (biases, norms, LayerScale), and those `BESIDE_LAYERS`.

    Args:
        network: split or not.
    """
    for name, parameter in network.named_parameters():
        if parameter.dim() <= 1 or any(part in BESIDE_LAYERS for part in name.split(".")):
            yield parameter


def without_decay(
    builder: Callable[[list[dict[str, Any]]], Optimizer], network: nn.Module
) -> Callable[[list[nn.Parameter]], Optimizer]:
    """The same optimizer for each module, whose weight decay leaves `undecayed` alone.

        optimizer=trgl.without_decay(partial(AdamW, lr=0.007, weight_decay=0.05), network)

    Args:
        builder: from parameter groups to an Optimizer.
        network: what is trained.

    Source: Liu et al., "Swin Transformer", ICCV 2021, whose training leaves these out.
    """
    spared = {id(parameter) for parameter in undecayed(network)}

    def build(parameters: list[nn.Parameter]) -> Optimizer:
        groups: list[dict[str, Any]] = [
            {"params": [p for p in parameters if id(p) not in spared]},
            {"params": [p for p in parameters if id(p) in spared], "weight_decay": 0.0},
        ]
        return builder([group for group in groups if group["params"]])

    return build


def fused_sgd(parameters: Any, **options: Any) -> SGD:
    """SGD with fused=True, which also takes weights whose first gradient comes late.

    PyTorch's, as of 2.15, fails with a TypeError where one weight of a group has a momentum and
    another has none yet. A momentum of zeros leads to the same update: μ·0 + g = g.

    Args:
        parameters: or groups of them.
        options: of `torch.optim.SGD`, but for dampening, which would weaken that first gradient.
    """
    optimizer = SGD(parameters, fused=True, **options)
    optimizer.register_step_pre_hook(_begin_late_momenta)
    return optimizer


def _begin_late_momenta(optimizer: Optimizer, *_: object) -> None:
    for group in optimizer.param_groups:
        if group["momentum"] == 0:
            continue
        taking = [p for p in group["params"] if p.grad is not None]
        late = [p for p in taking if optimizer.state[p].get("momentum_buffer") is None]
        if len(late) < len(taking):
            for parameter in late:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


class Together(Optimizer):
    """The optimizers of a module as one, so that loss scaling steps all of them or none.

    Args:
        optimizers: which it steps.
        parameters: of all of them.
    """

    def __init__(self, optimizers: Sequence[Optimizer], parameters: list[nn.Parameter]) -> None:
        super().__init__(parameters, {})
        self._optimizers = optimizers

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Steps them, in order."""
        for optimizer in self._optimizers:
            optimizer.step()
