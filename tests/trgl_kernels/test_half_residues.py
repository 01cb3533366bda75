"""A half-precision residue on a float32 stream, as autocast makes it: no copy, no other bit."""

from functools import partial

import pytest
import torch
from layer_norm_case import OPTIONS as NORM_OPTIONS
from layer_norm_case import VECTORS
from layer_norm_case import draw as draw_norm
from oracle import DEVICE, INTERPRETED, LAYOUTS, gradients
from residual_case import OPTIONS, draw
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import trgl_kernels
from trgl_kernels import gradients as gradients_of
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
        if INTERPRETED and found.dtype == torch.bfloat16:  # Triton's interpreter cuts digits off
            torch.testing.assert_close(found, expected, rtol=2**-7, atol=0.0)
        else:
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


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_a_recovered_residue_in_half_precision(dtype) -> None:
    """By hand only: autograd keeps r in half precision, y − x being useless there."""
    y, x, grad_y = (torch.randn(3, 4, 5) for _ in range(3))
    arguments = (grad_y, torch.rand(3), None, y.to(dtype), x, None, None, "none", 2.0)
    arguments = (*arguments, torch.float32, [True, True, False])
    found = torch.ops.trgl.residual_energy_backward(*arguments)
    expected = gradients_of.residual_energy_backward(*arguments)
    for a, b in zip(found[:2], expected[:2], strict=True):
        torch.testing.assert_close(a, b)


def allocated(run) -> int:
    """Bytes that were asked of the CPU's allocator during a call."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    waiting, total = list(profiler.profiler.kineto_results.experimental_event_tree()), 0
    while waiting:
        event = waiting.pop()
        waiting += event.children
        if event.tag == torch._C._profiler._EventType.Allocation:
            total += max(0, event.extra_fields.alloc_size)
    return total


@pytest.mark.skipif(DEVICE != "cpu", reason="the CPU's allocator is asked")
@pytest.mark.parametrize(
    ("function", "maps"),
    [
        # y, the gradient of x where a ReLU masks it, and that of r in half the bytes
        (partial(residual_energy, activation="none"), 1.5),
        (partial(residual_energy, activation="relu"), 2.5),
        # y, normed, the gradient of x, and that of r in half the bytes
        (partial(residual_energy_layer_norm, weight=None, bias=None), 3.5),
    ],
    ids=["none", "relu", "layer_norm"],
)
def test_no_map_is_copied(function, maps) -> None:
    served = trgl_kernels.info()["engines"]["residual_energy"]["cpu"]["engine"]
    if served != "compiled":
        pytest.skip(f"the compiled engine reads r in its own type; {served} serves here")
    x = torch.randn(8, 64, 32, requires_grad=True)
    r = torch.randn(8, 64, 32).bfloat16().requires_grad_()
    grads = [torch.randn(8, 64, 32), torch.randn(8, 64, 32), torch.rand(8)]

    def both() -> None:
        outputs = function(x, r)
        torch.autograd.grad(outputs, [x, r], [*grads[: len(outputs) - 1], grads[-1]])

    both()
    assert maps * x.nbytes <= allocated(both) < (maps + 0.1) * x.nbytes
