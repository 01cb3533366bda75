"""BN + ReLU: forward and backward, against eager PyTorch and torch.compile."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from batch_norm import clear_of_kink
from operators import BACKWARD, BOTH, compiled, race_operator, with_statistics
from oracle import LAYOUTS
from torch import Tensor

from trgl_kernels import batch_norm_relu, reference

SHAPES = [(2, 8, 4, 4), (8, 64, 14, 14), (32, 256, 16, 16), (128, 64, 32, 32), (64, 16, 96, 96)]
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
CASES = [
    *((shape, "float32", layout, BOTH) for shape in SHAPES for layout in LAYOUTS),
    *((SHAPES[-1], "bfloat16", layout, BOTH) for layout in LAYOUTS),
    *((SHAPES[-1], "float32", layout, BACKWARD) for layout in LAYOUTS),
    (SHAPES[-1], "bfloat16", "contiguous", BACKWARD),
]


def eager(z, weight, bias, running_mean, running_var) -> Tensor:
    return torch.relu(F.batch_norm(z, running_mean, running_var, weight, bias, True, 0.1, 1e-5))


@pytest.mark.parametrize(("shape", "dtype", "layout", "part"), CASES, ids=str)
def test_batch_norm_relu(benchmark, shape, dtype, layout, part) -> None:
    torch.manual_seed(0)
    z, grad = (
        torch.randn(shape).to(TYPES[dtype]).contiguous(memory_format=LAYOUTS[layout])
        for _ in range(2)
    )
    weight, bias = torch.rand(shape[1]) + 0.5, torch.rand(shape[1])
    given = {"running_mean": None, "running_var": None, "training": True}
    # at a ReLU's kink two correct results may fall on different sides
    z = clear_of_kink(z.float(), {**given, "weight": weight, "bias": bias}, z.dtype).to(z.dtype)
    rivals = {
        "ours": partial(batch_norm_relu, training=True),
        "eager": eager,
        "compiled": compiled(eager),
    }
    race_operator(
        benchmark,
        "batch_norm_relu",
        {name: with_statistics(function, shape[1]) for name, function in rivals.items()},
        lambda *inputs: reference.batch_norm_relu(*inputs, None, None, training=True),
        tuple(t.requires_grad_() for t in (z, weight, bias)),
        (grad,),
        part,
        # forward z twice, y; backward twice z and the gradient; the gradient of z
        {BOTH: 8, BACKWARD: 5},
    )
