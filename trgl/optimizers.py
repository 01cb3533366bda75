"""Optimizers of one module: what weight decay leaves alone, and several as one."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from .rollback import Rollback

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


class Together(Optimizer):
    """The optimizers of a module as one, so that all of them step or none.

    Args:
        optimizers: which it steps.
        parameters: of all of them.

    Attributes:
        rollback: of a step that fails.
    """

    def __init__(self, optimizers: Sequence[Optimizer], parameters: list[nn.Parameter]) -> None:
        super().__init__(parameters, {})
        self.rollback = Rollback(optimizers, parameters)
        self._optimizers = optimizers

    def update(self) -> None:
        """Steps them, in order."""
        with self.rollback.undone_if_it_fails():
            for optimizer in self._optimizers:
                optimizer.step()

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """`update` for loss scaling, which does not call it where it skips an update."""
        self.update()
