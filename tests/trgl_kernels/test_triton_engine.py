"""The Triton engine beyond the operators' own tests: few kernels, and numbers that wear thin."""

import pytest
import torch
from interpreted import assert_close, each_layout, normal, recorded
from oracle import DEVICE, TRITON

from trgl_kernels import reference

if not TRITON:
    pytest.skip("only for TRGL_TEST_ENGINE=triton and cuda", allow_module_level=True)


from trgl_kernels import cuda


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the kernels that ran."""
    return recorded(monkeypatch)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@each_layout
def test_small_inputs_need_few_kernels(layout: torch.memory_format, kernels: list[str]) -> None:
    z, x, grad_y = (normal((2, 8, 4, 4), layout) for _ in range(3))
    vector = torch.rand(8)
    y, energy, mean, rstd = torch.ops.trgl.batch_norm_residual_energy.default(
        z,
        x,
        vector,
        vector,
        vector.clone(),
        vector.clone(),
        True,
        0.1,
        1e-5,
        "relu",
        None,
        2.0,
        True,
    )
    torch.ops.trgl.batch_norm_residual_energy_backward.default(
        grad_y,
        energy,
        z,
        y,
        vector,
        vector,
        mean,
        rstd,
        True,
        "relu",
        None,
        2.0,
        x.dtype,
        [True] * 4,
    )
    torch.ops.trgl.residual_energy.default(x, z, "none", None, None, 2.0, True, False)
    torch.ops.trgl.batch_norm_relu.default(z, vector, vector, None, None, True, 0.1, 1e-5)
    torch.ops.trgl.batch_norm_relu_backward.default(
        grad_y, z, vector, vector, mean, rstd, True, [True] * 3
    )
    assert kernels == [
        "batch_kernel",
        "forward_kernel",
        "backward_sums_kernel",
        "backward_kernel",
        "forward_kernel",
        "batch_kernel",
        "rectify_kernel",
        "backward_sums_kernel",
        "backward_kernel",
    ]


@pytest.mark.parametrize("mean", [0.0, 1e3, -1e4])
@each_layout
def test_statistics_of_values_far_from_zero(mean: float, layout: torch.memory_format) -> None:
    z = (normal((8, 3, 12, 12)) + mean).contiguous(memory_format=layout)
    _, _, found, rstd = torch.ops.trgl.batch_norm_residual_energy.default(
        z, z, None, None, None, None, True, 0.1, 1e-5, "none", None, 2.0, False
    )
    exact = z.double().mean((0, 2, 3))
    var = z.double().var((0, 2, 3), correction=0)
    # the mean to one unit in its last place, and that unit is what deviations are known to
    assert ((found.double() - exact).abs() <= 2.0**-23 * exact.abs() + 1e-7).all()
    torch.testing.assert_close(
        rstd.double(), (var + 1e-5).rsqrt(), rtol=1e-6 + 4e-9 * abs(mean), atol=0.0
    )


def test_vectors_may_be_expanded_or_strided() -> None:
    x, r = normal((4, 6, 3, 3)), normal((4, 6, 3, 3))
    keep, scale = torch.rand(8)[::2], torch.rand(12)[::2]
    y, energy = torch.ops.trgl.residual_energy.default(x, r, "none", scale, keep, 2.0, True, False)
    expected = reference.residual_energy(x, r, scale=scale, keep=keep)
    assert_close((y, energy), tuple(t.double() for t in expected))
    one = torch.ones(1).expand(4)
    (_, found, _) = torch.ops.trgl.residual_energy_backward.default(
        None, one, None, r, None, scale, keep, "none", 2.0, x.dtype, [False, True, False]
    )
    q = reference.residue(r, scale, keep, torch.float32)
    expected = 2.0 * q * reference.residue(torch.ones_like(r), scale, keep, torch.float32)
    torch.testing.assert_close(found, expected)


def test_strided_running_statistics_move() -> None:
    z = normal((4, 6, 3, 3))
    running = torch.zeros(6, 2)
    expected = torch.zeros(6), torch.zeros(6)
    for mean, var in (running.unbind(1), expected):
        torch.ops.trgl.batch_norm_residual_energy.default(
            z, z, None, None, mean, var, True, 0.25, 1e-5, "none", None, 2.0, False
        )
    assert torch.equal(running, torch.stack(expected, 1))
    torch.testing.assert_close(running[:, 0], 0.25 * z.mean((0, 2, 3)))


def test_a_relu_lets_the_gradient_of_nan_pass_as_pytorch_does() -> None:
    x = torch.tensor([[float("nan"), 1.0, -1.0, 0.0]])
    y = torch.relu(x.requires_grad_())
    (expected,) = torch.autograd.grad(y.sum(), x)
    found, _, _ = torch.ops.trgl.residual_energy_backward.default(
        torch.ones(1, 4), None, y.detach(), torch.zeros(1, 4), None, None, None, "relu", 2.0,
        x.dtype,
        [True, False, False],
    )  # fmt: skip
    assert torch.equal(found, expected)


def test_float64_and_empty_inputs_are_left_to_the_reference(kernels: list[str]) -> None:
    for r in (normal((2, 3, 4, 4)).double(), normal((0, 3, 4, 4)), normal((2, 3, 0, 4))):
        x = torch.randn_like(r)
        y, energy = torch.ops.trgl.residual_energy.default(
            x, r, "relu", None, None, 2.0, True, False
        )
        expected = reference.residual_energy(x, r, activation="relu")
        assert torch.equal(y, expected[0])
        assert torch.equal(energy, expected[1])
    assert kernels == []


def test_every_operator_is_registered() -> None:
    for name in cuda.OPERATORS:
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"trgl::{name}", DEVICE.upper())
