"""What a vision transformer's forward does between its layers, as layers."""

import functools
from typing import Any

import torch
from torch import Tensor, nn


class Tokens(nn.Module):
    """Positions of a map as rows: [N, C, H, W] to [N, H·W, C]."""

    def forward(
        self,
        x: Tensor,  # [N, C, H, W]
    ) -> Tensor:  # [N, S, C]
        """The rows."""
        return x.flatten(2).permute(0, 2, 1)


class Loose(nn.Module):
    """A parameter of a model as a layer; in a state_dict its key is the name of the layer.

    What holds the layer calls `held_by` on it, so that the key is also read under that name.

    Args:
        value: the parameter.
    """

    def __init__(self, value: nn.Parameter) -> None:
        super().__init__()
        self.value = value

    def held_by(self, parent: nn.Module, name: str) -> None:
        """Tells the level above that this layer stands there under `name`."""
        parent.register_load_state_dict_pre_hook(functools.partial(_rename, name))

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        destination[prefix.removesuffix(".")] = self.value if keep_vars else self.value.detach()


def _rename(name: str, module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Gives the key of a loose parameter the name under which PyTorch looks for it."""
    if prefix + name in state:
        state[f"{prefix}{name}.value"] = state.pop(prefix + name)


class ClassToken(Loose):
    """y = the class token, and behind it the rows of x."""

    def forward(
        self,
        x: Tensor,  # [N, S, C]
    ) -> Tensor:  # [N, S + 1, C]
        """The longer rows."""
        return torch.cat([self.value.expand(x.shape[0], -1, -1), x], dim=1)


class Positions(Loose):
    """y = x + the embedding of the positions."""

    def forward(
        self,
        x: Tensor,  # [N, S, C]
    ) -> Tensor:  # [N, S, C]
        """The sum."""
        return x + self.value
