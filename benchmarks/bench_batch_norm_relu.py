"""BN + ReLU: forward and backward, against eager PyTorch and torch.compile."""

import pytest
import torch
import torch.nn.functional as F
from batch_norm import clear_of_kink
from race import copy_of, race
from torch import Tensor

from trgl_kernels import batch_norm_relu

SHAPES = [(2, 8, 4, 4), (8, 64, 14, 14), (32, 256, 16, 16), (128, 64, 32, 32), (64, 16, 96, 96)]
LAYOUTS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}


def eager(z, weight, bias, running_mean, running_var) -> Tensor:
    return torch.relu(F.batch_norm(z, running_mean, running_var, weight, bias, True, 0.1, 1e-5))


def ours(z, weight, bias, running_mean, running_var) -> Tensor:
    return batch_norm_relu(z, weight, bias, running_mean, running_var, training=True)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_forward_and_backward(benchmark, shape, layout) -> None:
    torch.manual_seed(0)
    z, grad = (torch.randn(shape).contiguous(memory_format=LAYOUTS[layout]) for _ in range(2))
    c = shape[1]
    given = {"running_mean": None, "running_var": None, "training": True}
    given |= {"weight": torch.rand(c) + 0.5, "bias": torch.rand(c)}
    # at a ReLU's kink two correct results may fall on different sides
    z = clear_of_kink(z, given, z.dtype)
    inputs = tuple(t.requires_grad_() for t in (z, given["weight"], given["bias"]))

    def step(function):
        statistics = torch.zeros(c), torch.ones(c)

        def run() -> tuple[Tensor, tuple[Tensor, ...]]:
            y = function(*inputs, *statistics)
            return y, torch.autograd.grad(y, inputs, grad)

        return run

    torch.testing.assert_close(step(ours)(), step(eager)(), rtol=1e-3, atol=1e-3)
    race(
        benchmark,
        step(ours),
        {
            "eager": step(eager),
            "compiled": step(torch.compile(eager, fullgraph=True)),
            "copy": copy_of(z.detach()),
        },
        # forward z twice, y; backward twice z and the gradient; the gradient of z
        moved=8 * z.nbytes,
        copied=2 * z.nbytes,
        op="batch_norm_relu",
        **{"pass": "forward + backward"},
        shape=str(shape),
        type="float32",
        layout=layout,
    )
