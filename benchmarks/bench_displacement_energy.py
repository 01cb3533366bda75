"""The energy of a displacement: forward and backward, against eager and torch.compile."""

import pytest
import torch
from race import copy_of, race
from torch import Tensor

from trgl_kernels import displacement_energy

SHAPES = [(2, 8, 4, 4), (8, 64, 14, 14), (64, 784, 384), (64, 16, 96, 96)]


def eager(x: Tensor, y: Tensor) -> Tensor:
    return (y - x).float().square().flatten(1).sum(1)


@pytest.mark.parametrize("part", ["forward + backward", "backward"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_displacement(benchmark, shape, dtype, part) -> None:
    torch.manual_seed(0)
    inputs = tuple(torch.randn(shape).to(dtype).requires_grad_() for _ in range(2))
    slope = torch.rand(shape[0])

    def step(function):
        done = function(*inputs)

        def backward() -> tuple[Tensor, ...]:
            return torch.autograd.grad(done, inputs, slope, retain_graph=True)

        def both() -> tuple[Tensor, ...]:
            energy = function(*inputs)
            return energy, *torch.autograd.grad(energy, inputs, slope)

        return backward if part == "backward" else both

    # eager rounds the difference to bfloat16, which the operator does not
    tolerance = 1e-4 if dtype == torch.float32 else 1e-1
    torch.testing.assert_close(
        step(displacement_energy)(), step(eager)(), rtol=tolerance, atol=tolerance
    )
    nbytes = inputs[0].nbytes
    rivals = {"eager": step(eager), "copy": copy_of(inputs[0].detach())}
    if part == "forward + backward":  # torch.compile's backward cannot run twice
        rivals["compiled"] = step(torch.compile(eager, fullgraph=True))
    race(
        benchmark,
        step(displacement_energy),
        rivals,
        # forward x and y; backward x, y and their gradients
        moved=(4 if part == "backward" else 6) * nbytes,
        copied=2 * nbytes,
        op="displacement_energy",
        **{"pass": part},
        shape=str(shape),
        type=str(dtype).removeprefix("torch."),
        layout="contiguous",
    )
