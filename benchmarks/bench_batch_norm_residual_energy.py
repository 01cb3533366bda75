"""BN + addition + ReLU + energy: forward and backward, against eager PyTorch and torch.compile."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from operators import BACKWARD, BOTH, compiled, race_operator, with_statistics
from oracle import LAYOUTS, away_from_kink
from torch import Tensor

from trgl_kernels import batch_norm_residual_energy, reference

SHAPES = [(2, 8, 4, 4), (8, 64, 14, 14), (32, 256, 16, 16), (128, 64, 32, 32), (64, 16, 96, 96)]
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
CASES = [
    *((shape, "float32", layout, BOTH) for shape in SHAPES for layout in LAYOUTS),
    *((SHAPES[-1], "bfloat16", layout, BOTH) for layout in LAYOUTS),
    *((SHAPES[-1], "float32", layout, BACKWARD) for layout in LAYOUTS),
    (SHAPES[-1], "bfloat16", "contiguous", BACKWARD),
]


def eager(z, x, weight, bias, running_mean, running_var) -> tuple[Tensor, Tensor]:
    r = F.batch_norm(z, running_mean, running_var, weight, bias, True, 0.1, 1e-5)
    return torch.relu(x + r), r.float().square().flatten(1).sum(1)


def eager_without_penalty(z, x, weight, bias, running_mean, running_var) -> Tensor:
    r = F.batch_norm(z, running_mean, running_var, weight, bias, True, 0.1, 1e-5)
    return torch.relu(x + r)


def ours_without_penalty(z, x, weight, bias, running_mean, running_var) -> Tensor:
    y, _, _, _ = torch.ops.trgl.batch_norm_residual_energy.default(
        z, x, weight, bias, running_mean, running_var, True, 0.1, 1e-5, "relu", None, 2.0, False
    )
    return y


@pytest.mark.parametrize(("shape", "dtype", "layout", "part"), CASES, ids=str)
def test_batch_norm_residual_energy(benchmark, shape, dtype, layout, part) -> None:
    torch.manual_seed(0)
    z, x, grad = (
        torch.randn(shape).to(TYPES[dtype]).contiguous(memory_format=LAYOUTS[layout])
        for _ in range(3)
    )
    weight, bias = torch.rand(shape[1]), torch.rand(shape[1])
    # at a ReLU's kink two correct results may fall on different sides
    r = F.batch_norm(z.float(), None, None, weight, bias, True)
    x = away_from_kink(x.float(), r).to(x.dtype)
    rivals = {
        "ours": partial(batch_norm_residual_energy, training=True),
        "eager": eager,
        "eager_without_penalty": eager_without_penalty,
        "compiled": compiled(eager),
        "penalty_off": ours_without_penalty,
    }
    race_operator(
        benchmark,
        "batch_norm_residual_energy",
        {name: with_statistics(function, shape[1]) for name, function in rivals.items()},
        lambda *inputs: reference.batch_norm_residual_energy(*inputs, None, None, training=True),
        tuple(t.requires_grad_() for t in (z, x, weight, bias)),
        (grad, torch.rand(shape[0])),
        part,
        # forward z twice, x, y; backward twice z and the gradient, y; both gradients
        {BOTH: 11, BACKWARD: 7},
    )
