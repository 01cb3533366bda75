"""displacement_energy: every engine against float64 and eager PyTorch, and what always holds."""

import pytest
import torch
from oracle import (
    DEVICE,
    FORWARD_MODE_SCRIPTS,
    INTERPRETED,
    LAYOUTS,
    READS_GRAD,
    assert_three_way,
    each_end,
    each_path,
    gradients,
    leaf,
    one_thread,
    poisoned_memory,
    rounded,
    saved_bytes,
)
from torch import Tensor

from trgl_kernels import displacement_energy, reference, residual_energy

SHAPES = [(5, 7), (3, 11, 6), (2, 3, 5, 7), (2, 16, 4, 4), (3, 130, 1, 1), (2, 3, 2, 3, 4)]
if not INTERPRETED:
    SHAPES += [(2, 5, 97, 101), (4, 33, 28, 28)]

backward = torch.ops.trgl.displacement_energy_backward.default


def draw(shape: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, and a cotangent that is uneven, so that a wrong sample index cannot cancel out."""
    x, y = (torch.randn(shape, dtype=torch.float64) for _ in range(2))
    return x, y, torch.linspace(-1.0, 2.0, shape[0], dtype=torch.float64)


def run(function, x, y, cotangent, p, dtype, layout) -> list[Tensor]:
    """[energy, grad_x, grad_y] of a function at a type and layout."""
    x, y = leaf(x, dtype, layout), leaf(y, dtype, layout)
    energy = function(x, y, p=p)
    return [energy.detach(), *gradients([energy], [cotangent.to(energy.dtype)], [x, y])]


def eager(x: Tensor, y: Tensor, p: float = 2.0) -> Tensor:
    """What a user writes without this operator; the energy in float32."""
    return (y - x).to(reference.accumulation_dtype(x)).abs().pow(p).flatten(1).sum(1)


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 2.5, 3.0])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients(shape, dtype, layout, p) -> None:
    if layout == "channels_last" and len(shape) != 4:
        pytest.skip("channels_last is a layout of four dimensions")
    x, y, cotangent = draw(shape)
    drawn = (rounded(x, dtype), rounded(y, dtype), cotangent, p)
    exact = run(reference.displacement_energy, *drawn, torch.float64, LAYOUTS["contiguous"])
    engine = run(displacement_energy, *drawn, dtype, LAYOUTS[layout])
    plain = run(eager, *drawn, dtype, LAYOUTS[layout])
    assert_three_way(["energy", "grad_x", "grad_y"], engine, plain, exact)
    assert engine[0].dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    for gradient in engine[1:]:
        assert gradient.dtype == dtype
        assert len(shape) != 4 or gradient.is_contiguous(memory_format=LAYOUTS[layout])


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 2.5, 3.0])
def test_gradcheck(p, layout) -> None:
    x, y, _ = draw((3, 4, 3, 2))
    inputs = tuple(leaf(t, torch.float64, layout) for t in (x, y))
    assert torch.autograd.gradcheck(lambda x, y: displacement_energy(x, y, p=p), inputs)


@READS_GRAD
@each_end
@pytest.mark.parametrize("p", [2.0, 3.0])
def test_opcheck(p, dtype, layout) -> None:
    x, y, _ = draw((3, 4, 5, 2))
    args = (leaf(x, dtype, layout), leaf(y, dtype, layout), p)
    torch.library.opcheck(torch.ops.trgl.displacement_energy.default, args)


@pytest.mark.parametrize("mask", [[True, True], [False, True], [True, False], [False, False]])
@pytest.mark.parametrize("types", [(torch.float32, torch.float32), (torch.bfloat16, torch.float32)])
def test_opcheck_backward(types, mask) -> None:
    x, y, weight = draw((3, 4, 5, 2))
    x = x.to(types[0], memory_format=torch.channels_last)
    args = (weight.float(), x, y.to(types[1]), 2.0, mask)
    torch.library.opcheck(backward, args)
    shapes = [tuple(t.shape) for t in backward(*args)]
    assert shapes == [tuple(x.shape) if wanted else (0,) for wanted in mask]


@each_path
def test_compiles_without_a_graph_break(dtype, layout) -> None:
    drawn = (*draw((4, 6, 5, 5)), 2.0, dtype, layout)
    compiled = torch.compile(displacement_energy, fullgraph=True)
    for a, b in zip(run(displacement_energy, *drawn), run(compiled, *drawn), strict=True):
        torch.testing.assert_close(a, b)
        assert a.stride() == b.stride()


def test_mixed_types_are_promoted() -> None:
    x, y, weight = draw((3, 5, 4, 4))
    x, y = x.bfloat16().requires_grad_(), y.float().requires_grad_()
    energy = displacement_energy(x, y)
    assert energy.dtype == torch.float32
    torch.testing.assert_close(energy, (y - x.float()).square().sum((1, 2, 3)))
    grad_x, grad_y = gradients([energy], [weight.float()], [x, y])
    assert (grad_x.dtype, grad_y.dtype) == (torch.bfloat16, torch.float32)
    expected = 2 * weight.float().reshape(3, 1, 1, 1) * (y - x.float()).detach()
    torch.testing.assert_close(grad_y, expected)
    torch.testing.assert_close(grad_x, -expected.bfloat16(), rtol=1e-2, atol=0.0)
    assert displacement_energy(x, y.double()).dtype == torch.float64


def test_layouts_that_are_not_dense() -> None:
    x = torch.randn(3, 9, 6, 8)[:, ::2, :, 1::2].requires_grad_()
    y = torch.randn(8, 6, 5, 3).permute(3, 2, 1, 0)[..., ::2].requires_grad_()
    energy = displacement_energy(x, y)
    torch.testing.assert_close(energy, (y - x).square().sum((1, 2, 3)))
    found = torch.autograd.grad(energy, [x, y], torch.ones(6)[::2])
    torch.testing.assert_close(found[0], 2 * (x - y))
    torch.testing.assert_close(found[1], 2 * (y - x))


def test_an_expanded_gradient() -> None:
    x, y = (torch.randn(3, 5, 4, 4, requires_grad=True) for _ in range(2))
    found = torch.autograd.grad(displacement_energy(x, y).mean(), [x, y])
    torch.testing.assert_close(found[0], 2 * (x - y) / 3)
    torch.testing.assert_close(found[1], 2 * (y - x) / 3)


@pytest.mark.parametrize("shape", [(0, 4, 3, 3), (2, 0, 3, 3), (3, 4, 0, 2), (0, 5)], ids=str)
def test_empty_inputs(shape) -> None:
    x, y = (torch.zeros(shape, requires_grad=True) for _ in range(2))
    energy = displacement_energy(x, y)
    assert torch.equal(energy, torch.zeros(shape[0]))
    for gradient in torch.autograd.grad(energy.sum(), [x, y]):
        assert gradient.shape == shape


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0])
def test_what_does_not_move_has_no_energy_and_no_slope(p) -> None:
    x = torch.randn(2, 3, 4, 4, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    energy = displacement_energy(x, y, p=p)
    assert torch.equal(energy, torch.zeros(2))
    for gradient in torch.autograd.grad(energy.sum(), [x, y]):
        assert torch.equal(gradient, torch.zeros_like(gradient))


def test_scaling_the_displacement_scales_the_energy_by_its_power() -> None:
    q, origin = torch.randn(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)
    for p in (1.0, 2.0, 3.0):
        energy = displacement_energy(origin, q, p=p)
        larger = displacement_energy(origin, 2.0 * q, p=p)
        torch.testing.assert_close(larger, 2.0**p * energy)


def test_the_way_back_has_the_same_energy_and_the_opposite_gradient() -> None:
    x, y = (torch.randn(3, 5, 7, 3, requires_grad=True) for _ in range(2))
    there, back = displacement_energy(x, y), displacement_energy(y, x)
    assert torch.equal(there, back)
    grad_x, grad_y = torch.autograd.grad(there.sum(), [x, y])
    assert torch.equal(grad_x, -grad_y)
    assert torch.equal(torch.autograd.grad(back.sum(), y)[0], grad_y)


def test_from_zero_it_is_the_energy_of_a_residue() -> None:
    q = torch.randn(3, 5, 9, 11)
    _, energy = residual_energy(torch.zeros_like(q), q)
    assert torch.equal(displacement_energy(torch.zeros_like(q), q), energy)


def test_samples_do_not_mix() -> None:
    x, y, order = torch.randn(4, 3, 5, 5), torch.randn(4, 3, 5, 5), torch.tensor([2, 0, 3, 1])
    energy = displacement_energy(x, y)
    assert torch.equal(displacement_energy(x[order], y[order]), energy[order])


# NumPy, which Triton's interpreter computes with, tells of ∞ − ∞
@pytest.mark.filterwarnings("ignore:invalid value encountered in subtract:RuntimeWarning")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_nan_and_infinity_propagate(dtype) -> None:
    inf, nan = float("inf"), float("nan")
    x = torch.tensor([[nan, 1.0], [1.0, inf], [inf, 1.0], [-inf, 2.0], [0.0, 1.0]], dtype=dtype)
    y = torch.tensor([[1.0, 2.0], [2.0, 1.0], [inf, 1.0], [inf, 2.0], [1.0, nan]], dtype=dtype)
    drawn = (x.double(), y.double(), torch.ones(5), 2.0, dtype, torch.contiguous_format)
    found, expected = run(displacement_energy, *drawn), run(eager, *drawn)
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a.isnan(), b.isnan())
        assert torch.equal(a.isinf(), b.isinf())
        assert torch.equal(a[b.isinf()], b[b.isinf()])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_runs_are_bitwise_equal_whatever_the_threads(layout, dtype) -> None:
    shape = (2, 3, 5, 5) if INTERPRETED else (3, 16, 60, 60)
    drawn = (*draw(shape), 2.0, dtype, layout)
    first = run(displacement_energy, *drawn)
    with one_thread():
        second = run(displacement_energy, *drawn)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_nothing_is_read_before_it_is_written(layout, dtype) -> None:
    drawn = (*draw((3, 5, 7, 3)), 2.0, dtype, layout)
    plain = run(displacement_energy, *drawn)
    with poisoned_memory():
        poisoned = run(displacement_energy, *drawn)
    assert all(torch.equal(a, b) for a, b in zip(plain, poisoned, strict=True))


@pytest.mark.parametrize("wanted", [0, 1], ids=["x", "y"])
def test_only_what_is_wanted_is_computed(wanted) -> None:
    x, y, weight = draw((3, 4, 5, 5))

    def gradient(function) -> Tensor:
        inputs = [t.detach().requires_grad_(i == wanted) for i, t in enumerate((x, y))]
        return gradients([function(*inputs)], [weight], [inputs[wanted]])[0]

    torch.testing.assert_close(
        gradient(displacement_energy), gradient(reference.displacement_energy)
    )


def test_a_gradient_that_is_not_defined() -> None:
    class Block(torch.autograd.Function):
        @staticmethod
        def forward(ctx, energy: Tensor) -> Tensor:
            return energy.clone()

        @staticmethod
        def backward(ctx, grad: Tensor) -> None:
            return None

    x, y = (torch.randn(2, 3, requires_grad=True) for _ in range(2))
    blocked = Block.apply(displacement_energy(x, y))
    found = torch.autograd.grad(blocked.sum(), [x, y], allow_unused=True)
    assert found == (None, None)


def test_saves_nothing_beyond_its_inputs() -> None:
    x, y = (torch.randn(4, 8, 6, 6, requires_grad=True) for _ in range(2))
    assert saved_bytes(lambda x, y: [displacement_energy(x, y)], x, y) == 0
    with torch.no_grad():
        assert not displacement_energy(x, y).requires_grad


def test_double_backward_is_refused() -> None:
    x, y = (torch.randn(2, 3, requires_grad=True) for _ in range(2))
    with pytest.raises(RuntimeError, match="no derivative of its own"):
        torch.autograd.grad(displacement_energy(x, y).sum(), y, create_graph=True)


@FORWARD_MODE_SCRIPTS
def test_forward_mode_is_refused() -> None:
    x, y = torch.randn(2, 3), torch.randn(2, 3)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(y, torch.ones_like(y))
        with pytest.raises(RuntimeError, match=r"forward|jvp"):
            displacement_energy(x, dual)


def test_autocast_changes_nothing() -> None:
    x, y = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    outside = displacement_energy(x, y, p=1.5)
    with torch.autocast(DEVICE, torch.bfloat16):
        assert torch.equal(displacement_energy(x, y, p=1.5), outside)


def test_long_sums_of_one_sign_keep_their_digits() -> None:
    side = 32 if INTERPRETED else 700
    y = torch.full((1, 2, side, side), 0.3)
    energy = displacement_energy(torch.zeros_like(y), y)
    exact = y.double().square().sum((1, 2, 3))
    assert abs(energy.double() / exact - 1).max() < 3e-7
