"""For the tests of the Triton engine, in its interpreter and on a GPU."""

from typing import Any

import pytest
import torch
from oracle import LAYOUTS, relative_error
from torch import Tensor

from trgl_kernels import launch

# one rounding in float32, and the few by which sums in another order differ
BOUND = 2e-6
each_layout = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)


def forget_settings() -> None:
    for function in (launch.view, launch.flat, launch.by_channel, launch.by_row, launch.combine):
        function.cache_clear()


def normal(shape: tuple[int, ...], layout: torch.memory_format = torch.contiguous_format) -> Tensor:
    tensor = torch.randn(shape)
    return tensor.contiguous(memory_format=layout) if tensor.dim() == 4 else tensor


def wide(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """The same arguments in float64."""
    return tuple(a.double() if isinstance(a, Tensor) else a for a in arguments)


def assert_close(found: tuple[Tensor, ...], exact: tuple[Tensor, ...]) -> None:
    for i, (a, b) in enumerate(zip(found, exact, strict=True)):
        assert a.shape == b.shape, i
        assert relative_error(a, b) <= BOUND, i


def recorded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the kernels that run from now on."""
    from trgl_kernels.cuda import runtime, statistics  # decorates its kernels when it is imported

    names: list[str] = []
    run = runtime.run

    def record(kernel: Any, *args: Any, **constants: Any) -> None:
        names.append(kernel.__name__)
        run(kernel, *args, **constants)

    for module in (runtime, statistics):
        monkeypatch.setattr(module, "run", record)
    return names
