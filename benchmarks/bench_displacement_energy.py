"""The energy of a displacement: forward and backward, against eager and torch.compile."""

import pytest
import torch
from operators import BACKWARD, BOTH, compiled, race_operator
from torch import Tensor

from trgl_kernels import displacement_energy, reference

SHAPES = [(2, 8, 4, 4), (8, 64, 14, 14), (64, 784, 384), (64, 16, 96, 96)]
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
CASES = [
    *((shape, name, BOTH) for shape in SHAPES for name in TYPES),
    *((SHAPES[-2], name, BACKWARD) for name in TYPES),
]


def eager(x: Tensor, y: Tensor) -> Tensor:
    return (y.float() - x.float()).square().flatten(1).sum(1)


@pytest.mark.parametrize(("shape", "dtype", "part"), CASES, ids=str)
def test_displacement_energy(benchmark, shape, dtype, part) -> None:
    torch.manual_seed(0)
    race_operator(
        benchmark,
        "displacement_energy",
        {"ours": displacement_energy, "eager": eager, "compiled": compiled(eager)},
        reference.displacement_energy,
        tuple(torch.randn(shape).to(TYPES[dtype]).requires_grad_() for _ in range(2)),
        (torch.rand(shape[0]),),
        part,
        # forward x and y; backward x, y and their gradients
        {BOTH: 6, BACKWARD: 4},
    )
