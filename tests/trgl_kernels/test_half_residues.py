"""A half-precision residue on a float32 stream, as autocast makes it: no copy, no other bit."""

import pytest
import torch
from layer_norm_case import OPTIONS as NORM_OPTIONS
from layer_norm_case import VECTORS
from layer_norm_case import draw as draw_norm
from oracle import DEVICE, LAYOUTS, gradients
from residual_case import OPTIONS, draw
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import trgl_kernels
from trgl_kernels import residual_energy, residual_energy_layer_norm

HALVES = [torch.bfloat16, torch.float16]
SHAPES = [(3, 11, 6), (2, 16, 4, 4), (2, 5, 33, 31)]
CASES = [
    (shape, name) for shape in SHAPES for name in LAYOUTS if name == "contiguous" or len(shape) == 4
]


def float32(options: dict) -> dict:
    return {k: v.float() if isinstance(v, Tensor) else v for k, v in options.items()}


def outcome(function, x, r, options, cotangents) -> list[Tensor]:
    """Outputs, then the gradients of x, r and of the vectors among the options."""
    names = [name for name in VECTORS if isinstance(options.get(name), Tensor)]
    leaves = {k: options[k].clone().requires_grad_() for k in names}
    x, r = (t.detach().clone().requires_grad_() for t in (x, r))
    outputs = function(x, r, **options | leaves)
    grads = gradients(outputs, [c.float() for c in cotangents], [x, r, *leaves.values()])
    return [*(t.detach() for t in outputs), *grads]


def assert_rounded_once(narrow: list[Tensor], wide: list[Tensor], count: int, dtype) -> None:
    """All but the gradient of r, behind `count` outputs and that of x, is the same bit by bit."""
    for number, (found, expected) in enumerate(zip(narrow, wide, strict=True)):
        if number == count + 1:
            expected = expected.to(dtype)
        assert found.dtype == expected.dtype
        assert torch.equal(found, expected), f"result {number}"


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize(("shape", "layout"), CASES, ids=str)
def test_residual_energy(shape, layout, options, dtype) -> None:
    x, r, given, cotangents = draw(shape, OPTIONS[options])
    given = float32(given)
    x = x.float().contiguous(memory_format=LAYOUTS[layout])
    r = r.to(dtype).contiguous(memory_format=LAYOUTS[layout])
    narrow = outcome(residual_energy, x, r, given, cotangents)
    wide = outcome(residual_energy, x, r.float(), given, cotangents)
    assert_rounded_once(narrow, wide, 2, dtype)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("options", NORM_OPTIONS)
@pytest.mark.parametrize("shape", [(3, 11, 6), (2, 4, 4, 16), (3, 65, 130)], ids=str)
def test_residual_energy_layer_norm(shape, options, dtype) -> None:
    x, r, given, cotangents = draw_norm(shape, NORM_OPTIONS[options])
    given, x, r = float32(given), x.float(), r.to(dtype)
    narrow = outcome(residual_energy_layer_norm, x, r, given, cotangents)
    wide = outcome(residual_energy_layer_norm, x, r.float(), given, cotangents)
    assert_rounded_once(narrow, wide, 3, dtype)


def allocated(run) -> int:
    """Bytes that were asked of the CPU's allocator during a call."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    sizes = [e.self_cpu_memory_usage for e in profiler.events() if e.name == "[memory]"]
    return sum(size for size in sizes if size > 0)


@pytest.mark.skipif(DEVICE != "cpu", reason="the CPU's allocator is asked")
@pytest.mark.parametrize("activation", ["none", "relu"])
def test_no_map_is_copied(activation) -> None:
    served = trgl_kernels.info()["engines"]["residual_energy"]["cpu"]["engine"]
    if served != "compiled":
        pytest.skip(f"the compiled engine reads r in its own type; {served} serves here")
    x = torch.randn(8, 64, 32, requires_grad=True)
    r = torch.randn(8, 64, 32).bfloat16().requires_grad_()
    grads = [torch.randn(8, 64, 32), torch.rand(8)]

    def both(function, **options) -> None:
        outputs = function(x, r, **options)
        torch.autograd.grad(outputs, [x, r], grads[: len(outputs) - 1] + grads[-1:])

    # y, the gradient of x where a ReLU masks it, and that of r in half the bytes
    maps = 1.5 if activation == "none" else 2.5
    assert allocated(lambda: both(residual_energy, activation=activation)) < (maps + 0.1) * x.nbytes
