"""Maps that are written past the caches: the same numbers, wherever a plane or row begins."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import trgl_kernels as kernels

# from 4 MiB for each thread on, the CPU kernels write a map past the caches
MIB = 1 << 20
THREADS = {True: 1, False: 16}

# 97·101 values are a plane, and 27 a row, that ends within a vector
SHAPES = [(8, 27, 97, 101), (8, 16, 128, 128)]


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def chain(op: str, z: Tensor, x: Tensor, grad: Tensor, weight: Tensor) -> list[Tensor]:
    """Outputs and gradients of an operator."""
    z, x, weight = (t.detach().requires_grad_() for t in (z, x, weight))
    mean, var = torch.zeros_like(weight), torch.ones_like(weight)
    share = torch.linspace(-1.0, 1.0, len(z))
    training = "evaluation" not in op
    if op.startswith("batch_norm_residual_energy"):
        out, energy = kernels.batch_norm_residual_energy(
            z, x, weight, -weight, mean, var, training=training, activation="relu"
        )
    elif op == "batch_norm_relu":
        out = kernels.batch_norm_relu(z, weight, -weight, mean, var, training=True)
        energy = torch.zeros(len(z), requires_grad=True)
    elif op == "residual_energy":
        out, energy = kernels.residual_energy(x, z, activation="relu")
    elif op == "displacement_energy":
        out, energy = z * 1.0, kernels.displacement_energy(x, z)
    else:
        out, normed, energy = kernels.residual_energy_layer_norm(x, z, weight, -weight)
        out = out + normed
    given = [z, x, weight]
    found = torch.autograd.grad((out, energy), given, (grad, share), allow_unused=True)
    return [out, energy, *(g for g in found if g is not None)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("shape", SHAPES, ids=["odd", "even"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize(
    "op",
    [
        "batch_norm_residual_energy",
        "batch_norm_residual_energy in evaluation",
        "batch_norm_relu",
        "residual_energy",
        "displacement_energy",
        "residual_energy_layer_norm",
    ],
)
def test_numbers_are_those_of_stores_through_the_caches(op, layout, shape, dtype, engine) -> None:
    if engine != "compiled":
        pytest.skip("only the compiled engine chooses between stores")
    if op == "residual_energy_layer_norm":
        if layout == "channels_last":
            pytest.skip("its rows are contiguous")
        shape = (shape[0], shape[2] * shape[3], shape[1])
    torch.manual_seed(0)
    last = layout == "channels_last"
    memory = torch.channels_last if last else torch.contiguous_format
    z, x, grad = (torch.randn(shape).to(dtype).contiguous(memory_format=memory) for _ in range(3))
    weight = torch.rand(shape[-1 if op == "residual_energy_layer_norm" else 1]) - 0.5
    assert 4 * MIB <= z.nbytes < 16 * 4 * MIB
    found = {}
    for streamed, count in THREADS.items():
        torch.set_num_threads(count)
        found[streamed] = chain(op, z, x, grad, weight)
    for streamed, cached in zip(found[True], found[False], strict=True):
        assert torch.equal(streamed, cached)
