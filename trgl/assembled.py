"""The bodies of a network and one head as an ordinary model."""

from collections.abc import Sequence
from typing import Self

from torch import Tensor, nn

from .body import Body, Names, Unit


class Assembled(Body):
    """An ordinary model: the bodies up to one depth, and the head there.

    Args:
        units: pairs of a dotted name and a module, in the order of running.
        head: what follows the last unit; its keys begin with `head.`.
        frozen: names of what stays in evaluation mode: units, or the head.
    """

    head: nn.Module

    def __init__(self, units: Sequence[Unit], head: nn.Module, frozen: Sequence[str] = ()) -> None:
        super().__init__(units)
        self.frozen = tuple(frozen)
        self.add_module("head", head)

    def set_mode(self, mode: bool) -> None:
        """Sets the mode of what is not a layer; the layers, which are shared, keep theirs."""
        for level in self.modules():
            if isinstance(level, Assembled | Names):
                level.training = mode

    def train(self, mode: bool = True) -> Self:
        """As `nn.Module.train`; what is frozen stays in evaluation mode."""
        super().train(mode)
        for name in self.frozen:
            self.get_submodule(name).eval()
        return self

    def forward(
        self,
        x: Tensor,  # [N, *input_shape]
    ) -> Tensor:  # [N, classes]
        """Logits of the images."""
        logits: Tensor = self.head(super().forward(x))
        return logits
