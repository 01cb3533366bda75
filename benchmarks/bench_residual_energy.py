"""The residual addition and its energy: forward and backward, against eager and torch.compile."""

from functools import partial

import pytest
import torch
from operators import BACKWARD, BOTH, compiled, race_operator
from oracle import LAYOUTS
from torch import Tensor

from trgl_kernels import reference, residual_energy

SHAPES = [(2, 8, 4, 4), (8, 64, 14, 14), (64, 784, 384), (64, 16, 96, 96)]
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
CASES = [
    *((shape, name, "contiguous", 2.0, BOTH) for shape in SHAPES for name in TYPES),
    *((SHAPES[-2], name, "contiguous", 2.0, BACKWARD) for name in TYPES),
    (SHAPES[-1], "float32", "channels_last", 2.0, BOTH),
    *((SHAPES[-1], "float32", "contiguous", p, BOTH) for p in (1.0, 1.5)),
]


def eager_with(p: float):
    def eager(x: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
        wide = r.float()
        powers = wide.square() if p == 2.0 else wide.abs().pow(p)
        return x + r, powers.flatten(1).sum(1)

    return eager


@pytest.mark.parametrize(("shape", "dtype", "layout", "p", "part"), CASES, ids=str)
def test_residual_energy(benchmark, shape, dtype, layout, p, part) -> None:
    torch.manual_seed(0)
    x, r, grad = (torch.randn(shape).to(TYPES[dtype]) for _ in range(3))
    if len(shape) == 4:
        x, r, grad = (t.contiguous(memory_format=LAYOUTS[layout]) for t in (x, r, grad))
    race_operator(
        benchmark,
        "residual_energy" if p == 2.0 else f"residual_energy, p = {p}",
        {
            "ours": partial(residual_energy, p=p),
            "eager": eager_with(p),
            "compiled": compiled(eager_with(p)),
        },
        partial(reference.residual_energy, p=p),
        (x.requires_grad_(), r.requires_grad_()),
        (grad, torch.rand(shape[0])),
        part,
        # forward x, r, y; backward the gradient, r, the gradient of r
        {BOTH: 6, BACKWARD: 3},
    )
