"""What is seen of gradients that are not finite."""

import pytest
import torch
from torch import nn

from trgl.accidents import NotFinite, Watch

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


def of_gradients(*gradients: torch.Tensor) -> list[nn.Parameter]:
    parameters = [nn.Parameter(torch.zeros_like(gradient)) for gradient in gradients]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    return [*parameters, nn.Parameter(torch.zeros(2))]  # the last has no gradient


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("value", ["inf", "-inf", "nan"])
def test_one_value_that_is_not_finite_is_seen(dtype: torch.dtype, value: str) -> None:
    gradient = torch.ones(5, 7, dtype=dtype)
    gradient[3, 2] = float(value)
    parameters = of_gradients(torch.ones(3), gradient, torch.ones(0, dtype=dtype))
    with pytest.raises(NotFinite, match="Module 3 diverged: its gradient is infinite or NaN"):
        Watch(3, torch.device("cpu")).gradients(parameters, None)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_large_values_are_no_alarm_and_stay_as_they_are(dtype: torch.dtype) -> None:
    large = torch.full((4, 4), 0.01 * torch.finfo(dtype).max, dtype=dtype)
    empty = torch.ones(0, dtype=dtype)
    Watch(1, torch.device("cpu")).gradients(of_gradients(large, torch.ones(3), empty), None)
    assert torch.equal(large, torch.full_like(large, 0.01 * torch.finfo(dtype).max))
