"""The definitions stand in for the public functions where a second derivative is wanted."""

from collections.abc import Callable

import pytest
import torch
from oracle import FORWARD_MODE_SCRIPTS
from torch import Tensor

import trgl_kernels
from trgl_kernels import reference

# inputs that are differentiated, by shape; the other arguments; outputs beyond the public ones
CASES = {
    "residual_energy": ([(3, 4, 2), (3, 4, 2)], {"activation": "relu"}, 0),
    "batch_norm_residual_energy": (
        [(3, 2, 4), (3, 2, 4), (2,), (2,)],
        {"running_mean": None, "running_var": None, "training": True},
        2,
    ),
    "batch_norm_relu": (
        [(3, 2, 4), (2,), (2,)],
        {"running_mean": None, "running_var": None, "training": True},
        2,
    ),
    "residual_energy_layer_norm": ([(3, 2, 4), (3, 2, 4), (4,), (4,)], {}, 2),
    "displacement_energy": ([(3, 4, 2), (3, 4, 2)], {}, 0),
}
each_operator = pytest.mark.parametrize("name", CASES)


def drawn(name: str, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = CASES[name][0]
    return [torch.randn(s, generator=generator, dtype=dtype, requires_grad=True) for s in shapes]


def outputs(function: Callable[..., Tensor | tuple[Tensor, ...]], name: str, *inputs: Tensor):
    found = function(*inputs, **CASES[name][1])
    return (found,) if isinstance(found, Tensor) else found


@each_operator
def test_returns_what_the_public_function_returns_and_then_the_statistics(name: str) -> None:
    inputs = drawn(name, torch.float32)
    found = outputs(getattr(trgl_kernels, name), name, *inputs)
    defined = outputs(getattr(reference, name), name, *inputs)
    beyond = CASES[name][2]
    assert len(defined) == len(found) + beyond
    torch.testing.assert_close(found, defined[: len(found)])


@each_operator
def test_what_the_refusal_of_a_second_derivative_names_has_one(name: str) -> None:
    inputs = drawn(name)
    total = sum(t.sum() for t in outputs(getattr(trgl_kernels, name), name, *inputs))
    with pytest.raises(RuntimeError, match=rf"Use trgl_kernels\.reference\.{name}, which") as told:
        torch.autograd.grad(total, inputs, create_graph=True)
    function = getattr(reference, name)
    assert f"{function.__module__}.{function.__name__}," in str(told.value)
    kept = len(outputs(function, name, *inputs)) - CASES[name][2]
    assert torch.autograd.gradgradcheck(lambda *i: outputs(function, name, *i)[:kept], inputs)


@FORWARD_MODE_SCRIPTS
@each_operator
def test_has_forward_derivatives(name: str) -> None:
    function = getattr(reference, name)
    assert torch.autograd.gradcheck(
        lambda *i: outputs(function, name, *i), drawn(name), check_forward_ad=True
    )
