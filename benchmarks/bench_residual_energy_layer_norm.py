"""A Transformer's residual addition, its energy and the next LayerNorm, forward and backward."""

import pytest
import torch
import torch.nn.functional as F
from operators import BACKWARD, BOTH, compiled, race_operator
from torch import Tensor

from trgl_kernels import reference, residual_energy_layer_norm

SHAPES = [(2, 4, 8), (8, 49, 96), (64, 784, 384)]
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
CASES = [
    *((shape, name, BOTH) for shape in SHAPES for name in TYPES),
    *((SHAPES[-1], name, BACKWARD) for name in TYPES),
]


def eager(x: Tensor, r: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    y, normed = eager_without_penalty(x, r, weight, bias)
    return y, normed, r.float().square().flatten(1).sum(1)


def eager_without_penalty(
    x: Tensor, r: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor]:
    y = x + r
    return y, F.layer_norm(y, y.shape[-1:], weight, bias)


def ours_without_penalty(
    x: Tensor, r: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor]:
    return torch.ops.trgl.residual_energy_layer_norm.default(
        x, r, weight, bias, 1e-5, None, None, 2.0, False, False
    )[:2]


@pytest.mark.parametrize(("shape", "dtype", "part"), CASES, ids=str)
def test_residual_energy_layer_norm(benchmark, shape, dtype, part) -> None:
    torch.manual_seed(0)
    x, r, grad_y, grad_normed = (torch.randn(shape).to(TYPES[dtype]) for _ in range(4))
    weight, bias = (torch.randn(shape[-1]) for _ in range(2))
    race_operator(
        benchmark,
        "residual_energy_layer_norm",
        {
            "ours": residual_energy_layer_norm,
            "eager": eager,
            "eager_without_penalty": eager_without_penalty,
            "penalty_off": ours_without_penalty,
            "compiled": compiled(eager),
        },
        reference.residual_energy_layer_norm,
        tuple(t.requires_grad_() for t in (x, r, weight, bias)),
        (grad_y, grad_normed, torch.rand(shape[0])),
        part,
        # forward x, r, y, normed; backward two gradients, y, r, the gradients of x and r
        {BOTH: 10, BACKWARD: 6},
    )
