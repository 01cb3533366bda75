"""Modules on tensors without data: every shape, type and storage, and no arithmetic."""

import copy
import logging
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.modules.batchnorm import _BatchNorm

Module = TypeVar("Module", bound=nn.Module)
_LOG = logging.getLogger("torch._subclasses.fake_tensor")


class FakeMode:
    """Inside, tensors have shapes and no data.

    What an operator refuses is raised. PyTorch also logs it, with a traceback of its own; that is
    left out, because whoever runs a model here tells the error.
    """

    def __init__(self) -> None:
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)

    def __enter__(self) -> None:
        _LOG.addFilter(self._keeps)
        self._mode.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._mode.__exit__(*error)
        _LOG.removeFilter(self._keeps)

    def _keeps(self, record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith("failed while attempting to run meta")


class Fakes:
    """Makes modules and tensors that have no data; run them inside `mode`.

    Attributes:
        mode: the context in which they run.
    """

    def __init__(self) -> None:
        # tensors that a module holds without having registered them stay real
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)

    def module(self, module: Module) -> Module:
        """A copy of the module on the same device whose parameters and buffers have no data."""
        memo: dict[int, object] = {}
        for tensor in [*module.parameters(), *module.buffers()]:
            if id(tensor) in memo:
                continue
            fake: Tensor = self.mode.from_tensor(tensor.detach())
            if isinstance(tensor, nn.Parameter):
                fake = nn.Parameter(fake, tensor.requires_grad)
            memo[id(tensor)] = fake
        copied = copy.deepcopy(module, memo)
        for layer in copied.modules():
            if isinstance(layer, _BatchNorm) and layer.momentum is None:
                layer.momentum = 0.1  # a cumulative mean reads how many batches there were
        return copied

    def images(self, batch: int, shape: Sequence[int], like: nn.Module) -> Tensor:
        """[batch, *shape] of the type and on the device of the module's parameters."""
        device, dtype = place_of(like)
        with self.mode:
            return torch.empty(batch, *shape, device=device, dtype=dtype)

    def labels(self, batch: int, like: nn.Module) -> Tensor:
        """[batch] int64, all zero, on the device of the module's parameters."""
        with self.mode:
            return torch.zeros(batch, dtype=torch.long, device=place_of(like)[0])


def place_of(module: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Device and type of the module's first floating-point parameter."""
    for parameter in module.parameters():
        if parameter.is_floating_point():
            return parameter.device, parameter.dtype
    return torch.device("cpu"), torch.get_default_dtype()
