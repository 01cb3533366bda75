"""CUDA graphs: forward and backward of each operator, captured once, replayed on new values."""

import pytest
import torch
from torch import Tensor

import trgl_kernels

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no GPU: capture and replay were not tested"
)


def vectors(device: str = "cuda") -> list[Tensor]:
    return [torch.rand(16, device=device) for _ in range(4)]


def residual_energy(x: Tensor, r: Tensor, v: list[Tensor]) -> tuple[Tensor, ...]:
    return trgl_kernels.residual_energy(x, r, activation="relu", scale=v[0])


def batch_norm_residual_energy(x: Tensor, r: Tensor, v: list[Tensor]) -> tuple[Tensor, ...]:
    return trgl_kernels.batch_norm_residual_energy(r, x, *v, training=True)


def batch_norm_relu(x: Tensor, r: Tensor, v: list[Tensor]) -> tuple[Tensor, ...]:
    return (trgl_kernels.batch_norm_relu(r, *v, training=True) + x,)


def residual_energy_layer_norm(x: Tensor, r: Tensor, v: list[Tensor]) -> tuple[Tensor, ...]:
    return trgl_kernels.residual_energy_layer_norm(x, r, v[0], v[1])


def displacement_energy(x: Tensor, r: Tensor, _: list[Tensor]) -> tuple[Tensor, ...]:
    return (trgl_kernels.displacement_energy(x, r),)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "function",
    [
        residual_energy,
        batch_norm_residual_energy,
        batch_norm_relu,
        residual_energy_layer_norm,
        displacement_energy,
    ],
)
def test_a_captured_step_replays(function, dtype) -> None:
    x, r = (torch.randn(8, 16, 12, 16, device="cuda").to(dtype).requires_grad_() for _ in range(2))
    given = vectors()

    def step() -> list[Tensor]:
        outputs = function(x, r, given)
        loss = sum(output.float().square().sum() for output in outputs)
        return [*outputs, *torch.autograd.grad(loss, [x, r])]

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        x.copy_(torch.randn_like(x))
        r.copy_(torch.randn_like(r))
    graph.replay()
    found = [t.detach().clone() for t in captured]
    for a, b in zip(found, step(), strict=True):
        assert torch.equal(a, b.detach())
