"""The residual addition and its energy: forward and backward, against eager and torch.compile."""

import pytest
import torch
from race import copy_of, race
from torch import Tensor

from trgl_kernels import residual_energy

SHAPES = [(2, 8, 4, 4), (8, 64, 14, 14), (64, 784, 384), (64, 16, 96, 96)]


def eager(x: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    return x + r, r.float().square().flatten(1).sum(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_forward_and_backward(benchmark, shape, dtype) -> None:
    torch.manual_seed(0)
    x, r, grad = (torch.randn(shape).to(dtype) for _ in range(3))
    inputs = (x.requires_grad_(), r.requires_grad_())
    slope = torch.rand(shape[0])

    def step(function):
        def run() -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
            outputs = function(*inputs)
            return outputs, torch.autograd.grad(outputs, inputs, (grad, slope))

        return run

    # eager rounds twice in bfloat16, where the operator rounds once
    tolerance = 1e-4 if dtype == torch.float32 else 1e-1
    torch.testing.assert_close(
        step(residual_energy)(), step(eager)(), rtol=tolerance, atol=tolerance
    )
    race(
        benchmark,
        step(residual_energy),
        {
            "eager": step(eager),
            "compiled": step(torch.compile(eager, fullgraph=True)),
            "copy": copy_of(x.detach()),
        },
        # forward x, r, y; backward the gradient, r, the gradient of r
        moved=6 * x.nbytes,
        copied=2 * x.nbytes,
        op="residual_energy",
        **{"pass": "forward + backward"},
        shape=str(shape),
        type=str(dtype).removeprefix("torch."),
        layout="contiguous",
    )
