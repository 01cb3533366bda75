"""A Transformer's residual addition, its energy and the next LayerNorm, forward and backward."""

import pytest
import torch
import torch.nn.functional as F
from oracle import assert_three_way
from race import copy_of, race
from torch import Tensor

from trgl_kernels import residual_energy_layer_norm

SHAPES = [(2, 4, 8), (8, 49, 96), (64, 784, 384)]
NAMES = ["y", "normed", "energy", "grad_x", "grad_r", "grad_weight", "grad_bias"]


def eager(x: Tensor, r: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    y, normed = eager_without_penalty(x, r, weight, bias)
    return y, normed, r.to(weight.dtype).square().flatten(1).sum(1)


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


def detached(tensors: list[Tensor]) -> list[Tensor]:
    return [t.detach() for t in tensors]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_forward_and_backward(benchmark, shape, dtype) -> None:
    torch.manual_seed(0)
    x, r, grad_y, grad_normed = (torch.randn(shape).to(dtype) for _ in range(4))
    weight, bias = (torch.randn(shape[-1]) for _ in range(2))
    inputs = tuple(t.requires_grad_() for t in (x, r, weight, bias))
    cotangents = (grad_y, grad_normed, torch.rand(shape[0]))

    def step(function, inputs=inputs):
        def run() -> list[Tensor]:
            outputs = function(*inputs)
            given = [c.to(o.dtype) for c, o in zip(cotangents, outputs, strict=False)]
            return [*outputs, *torch.autograd.grad(outputs, inputs, given)]

        return run

    exact = step(eager, tuple(t.detach().double().requires_grad_() for t in inputs))
    # eager adds up the gradients of bfloat16 in bfloat16: only float64 says which one is right
    assert_three_way(
        NAMES, *(detached(f()) for f in (step(residual_energy_layer_norm), step(eager), exact))
    )
    race(
        benchmark,
        step(residual_energy_layer_norm),
        {
            "eager": step(eager),
            "eager_without_penalty": step(eager_without_penalty),
            "penalty_off": step(ours_without_penalty),
            "compiled": step(torch.compile(eager, fullgraph=True)),
            "copy": copy_of(x.detach()),
        },
        # forward x, r, y, normed; backward two gradients, y, r, the gradients of x and r
        moved=10 * x.nbytes,
        copied=2 * x.nbytes,
        op="residual_energy_layer_norm",
        **{"pass": "forward + backward"},
        shape=str(shape),
        type=str(dtype).removeprefix("torch."),
        layout="contiguous",
    )
