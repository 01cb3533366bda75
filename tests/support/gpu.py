"""A GPU under the tests: their tensors are made there, of the numbers that the CPU draws."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# torch's own, not those of the code under test
WARNINGS = ("TensorFloat32 tensor cores", "Attempting to run cuBLAS, but there was no current CUDA")


def drawn_on_cpu(draw: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """torch.randn or one like it, with the numbers, and the generators, that it has on the CPU."""

    @functools.wraps(draw)
    def moved(
        *size: Any, device: Any = None, requires_grad: bool = False, **options: Any
    ) -> Tensor:
        numbers = draw(*size, device="cpu", **options)
        return numbers.to(device or torch.get_default_device()).requires_grad_(requires_grad)

    return moved


def use(device: str) -> None:
    """Makes tensors on a device where nobody names one, for the rest of the process."""
    for name in ("rand", "randn", "randint"):
        setattr(torch, name, drawn_on_cpu(getattr(torch, name)))
    torch.set_default_device(device)
    # float32 is float32, and convolutions give the same bits twice
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
