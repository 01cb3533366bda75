"""BN + addition + ReLU + energy: forward and backward, against eager PyTorch and torch.compile."""

import pytest
import torch
import torch.nn.functional as F
from oracle import away_from_kink
from race import copy_of, race
from torch import Tensor

from trgl_kernels import batch_norm_residual_energy

SHAPES = [(2, 8, 4, 4), (8, 64, 14, 14), (32, 256, 16, 16), (128, 64, 32, 32), (64, 16, 96, 96)]
LAYOUTS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}


def eager(z, x, weight, bias, running_mean, running_var, penalty=True) -> tuple[Tensor, ...]:
    r = F.batch_norm(z, running_mean, running_var, weight, bias, True, 0.1, 1e-5)
    y = torch.relu(x + r)
    return (y, r.float().square().flatten(1).sum(1)) if penalty else (y,)


def ours(z, x, weight, bias, running_mean, running_var) -> tuple[Tensor, ...]:
    return batch_norm_residual_energy(z, x, weight, bias, running_mean, running_var, training=True)


def ours_without_penalty(z, x, weight, bias, running_mean, running_var) -> tuple[Tensor, ...]:
    y, _, _, _ = torch.ops.trgl.batch_norm_residual_energy.default(
        z, x, weight, bias, running_mean, running_var, True, 0.1, 1e-5, "relu", None, 2.0, False
    )
    return (y,)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_forward_and_backward(benchmark, shape, layout) -> None:
    torch.manual_seed(0)
    layouts = LAYOUTS[layout]
    z, x, grad = (torch.randn(shape).contiguous(memory_format=layouts) for _ in range(3))
    c = shape[1]
    weight, bias = torch.rand(c), torch.rand(c)
    # at a ReLU's kink two correct results may fall on different sides
    x = away_from_kink(x, F.batch_norm(z, None, None, weight, bias, True))
    inputs = tuple(t.requires_grad_() for t in (z, x, weight, bias))
    slope = torch.rand(shape[0])

    def step(function):
        statistics = torch.zeros(c), torch.ones(c)

        def run() -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
            outputs = function(*inputs, *statistics)
            return outputs, torch.autograd.grad(outputs, inputs, (grad, slope)[: len(outputs)])

        return run

    torch.testing.assert_close(step(ours)(), step(eager)(), rtol=1e-3, atol=1e-3)
    compiled = torch.compile(eager, fullgraph=True)
    race(
        benchmark,
        step(ours),
        {
            "eager": step(eager),
            "eager_without_penalty": step(lambda *a: eager(*a, penalty=False)),
            "compiled": step(compiled),
            "penalty_off": step(ours_without_penalty),
            "copy": copy_of(z.detach()),
        },
        # forward z twice, x, y; backward twice z and the gradient, y; both gradients
        moved=11 * z.nbytes,
        copied=2 * z.nbytes,
        op="batch_norm_residual_energy",
        **{"pass": "forward + backward"},
        shape=str(shape),
        type="float32",
        layout=layout,
    )
