"""A Transformer's residual addition, its energy and the next LayerNorm, forward and backward."""

import pytest
import torch
import torch.nn.functional as F
from oracle import relative_error
from race import copy_of, race
from torch import Tensor

from trgl_kernels import residual_energy_layer_norm

SHAPES = [(2, 4, 8), (8, 49, 96), (64, 784, 384)]


def eager(x: Tensor, r: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    y, normed = eager_without_penalty(x, r, weight, bias)
    return y, normed, r.float().square().flatten(1).sum(1)


def eager_without_penalty(
    x: Tensor, r: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor]:
    y = x + r
    return y, F.layer_norm(y, y.shape[-1:], weight, bias)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_forward_and_backward(benchmark, shape, dtype) -> None:
    torch.manual_seed(0)
    x, r, grad_y, grad_normed = (torch.randn(shape).to(dtype) for _ in range(4))
    weight, bias = (torch.randn(shape[-1]).to(dtype) for _ in range(2))
    inputs = tuple(t.requires_grad_() for t in (x, r, weight, bias))
    cotangents = (grad_y, grad_normed, torch.rand(shape[0]))

    def step(function):
        def run() -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
            outputs = function(*inputs)
            return outputs, torch.autograd.grad(outputs, inputs, cotangents[: len(outputs)])

        return run

    # eager rounds between its operations in bfloat16, where the operator rounds once
    bound = 1e-5 if dtype == torch.float32 else 2e-2
    for found, expected in zip(step(residual_energy_layer_norm)(), step(eager)(), strict=True):
        for a, b in zip(found, expected, strict=True):
            assert relative_error(a, b.double()) < bound
    race(
        benchmark,
        step(residual_energy_layer_norm),
        {
            "eager": step(eager),
            "eager_without_penalty": step(eager_without_penalty),
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
