"""residual_energy with `recover`: what is kept for backward instead of r, and how exact it is."""

import pytest
import torch
from oracle import LAYOUTS, READS_GRAD, gradients
from torch import Tensor

SHAPES = [(5, 7), (3, 11, 6), (2, 3, 5, 7), (2, 16, 4, 4)]
FACTORS = {
    "plain": (),
    "keep": ("keep",),
    "scale": ("scale",),
    "keep-scale": ("keep", "scale"),
}


def call(
    x: Tensor,
    r: Tensor,
    keep: Tensor | None = None,
    scale: Tensor | None = None,
    activation: str = "none",
    p: float = 2.0,
    with_energy: bool = True,
    recover: bool = True,
) -> tuple[Tensor, Tensor]:
    y, energy = torch.ops.trgl.residual_energy.default(
        x, r, activation, scale, keep, p, with_energy, recover
    )
    return y, energy


def factors(names: tuple[str, ...], shape: tuple[int, ...], dtype: torch.dtype) -> dict:
    """keep and scale as asked for, neither of which wants a gradient."""
    channels = shape[1] if len(shape) >= 4 else shape[-1]
    keep = torch.tensor([0.0, 1.25, 1.25, 0.0, 1.25][: shape[0]])
    drawn = {"keep": keep.to(dtype), "scale": (torch.rand(channels) + 0.2).to(dtype)}
    return {name: drawn[name] for name in names}


def product(given: dict, like: Tensor) -> Tensor:
    """keep·scale, laid out as `like`."""
    total = torch.ones_like(like, dtype=torch.float64)
    if "keep" in given:
        total *= given["keep"].double().reshape(-1, *[1] * (like.dim() - 1))
    if "scale" in given:
        dim = 1 if like.dim() >= 4 else like.dim() - 1
        total *= given["scale"].double().reshape([-1 if d == dim else 1 for d in range(like.dim())])
    return total


def ulp(tensor: Tensor) -> Tensor:
    """Distance to the next larger magnitude, in float64."""
    size = tensor.abs()
    return (torch.nextafter(size, torch.full_like(size, torch.inf)) - size).double()


def kept(function) -> set[int]:
    """Storages that autograd keeps for backward."""
    pointers: set[int] = set()

    def pack(tensor: Tensor) -> Tensor:
        pointers.add(tensor.untyped_storage().data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        function()
    return pointers


def storages(*tensors: Tensor) -> set[int]:
    return {t.untyped_storage().data_ptr() for t in tensors}


@pytest.mark.parametrize("far", [0.01, 1.0, 30.0, 1000.0])
@pytest.mark.parametrize("layout", [*LAYOUTS, "strided"])
@pytest.mark.parametrize("names", FACTORS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gradients_are_those_of_r_to_the_last_places_of_x_and_y(
    shape, dtype, names, layout, far
) -> None:
    if layout == "channels_last" and len(shape) != 4:
        pytest.skip("channels_last is a layout of four dimensions")

    def normal() -> Tensor:
        if layout == "strided":
            return torch.randn(*shape[:-1], 2 * shape[-1], dtype=dtype)[..., ::2]
        drawn = torch.randn(shape, dtype=dtype)
        return drawn.contiguous(memory_format=LAYOUTS[layout]) if len(shape) == 4 else drawn

    given = factors(FACTORS[names], shape, dtype)
    x, r = (far * normal()).requires_grad_(), normal().requires_grad_()
    y, energy = call(x, r, **given)
    grad_y, grad_energy = normal(), torch.linspace(-1.0, 2.0, shape[0], dtype=dtype)
    grad_x, grad_r = gradients([y, energy], [grad_y, grad_energy], [x, r])
    assert torch.equal(grad_x, grad_y)
    x, r = x.detach(), r.detach()
    factor = product(given, r)
    weight = 2.0 * grad_energy.double().reshape(-1, *[1] * (r.dim() - 1))
    slope = weight * factor * r.double()
    exact = (grad_y.double() + slope) * factor
    recovery = weight.abs() * ulp(torch.maximum(x.abs(), y.detach().abs())) * factor
    # what is computed from r is rounded too: in keep·scale·r, in its slope, in the sum, at the end
    rounding = 4.0 * torch.finfo(dtype).eps * (grad_y.double().abs() + slope.abs()) * factor
    assert ((grad_r.double() - exact).abs() <= recovery + rounding).all()


@pytest.mark.parametrize("names", FACTORS)
def test_x_and_y_are_kept_in_the_place_of_r(names) -> None:
    shape = (3, 8, 6, 6)
    given = factors(FACTORS[names], shape, torch.float32)
    x, branch = torch.randn(shape, requires_grad=True), torch.nn.Conv2d(8, 8, 1)
    r = branch(x)
    outputs: list[Tensor] = []
    saved = kept(lambda: outputs.extend(call(x, r, **given)))
    assert saved == storages(x, outputs[0], *given.values())
    outputs.clear()
    saved = kept(lambda: outputs.extend(call(x, r, **given, with_energy=False)))
    assert saved == storages(outputs[0], *given.values())


FALLBACKS = {
    "bfloat16": {"dtype": torch.bfloat16},
    "float16": {"dtype": torch.float16},
    "relu": {"activation": "relu"},
    "p": {"p": 3.0},
    "scale": {"scale": True},
    "mixed": {"x_dtype": torch.float64},
}


@pytest.mark.parametrize("case", FALLBACKS)
def test_r_is_kept_where_it_cannot_be_recovered(case) -> None:
    options = dict(FALLBACKS[case])
    dtype = options.pop("dtype", torch.float32)
    x = torch.randn(3, 8, 6, 6, dtype=options.pop("x_dtype", dtype))
    r = torch.randn(3, 8, 6, 6, dtype=dtype, requires_grad=True)
    inputs = [r]
    if "scale" in options:
        options["scale"] = torch.rand(8).requires_grad_()
        inputs.append(options["scale"])
    found = []
    for recover in (False, True):
        outputs: list[Tensor] = []
        saved = kept(lambda o=outputs, f=recover: o.extend(call(x, r, **options, recover=f)))
        assert storages(r) <= saved
        cotangents = [torch.ones_like(t) for t in outputs]
        found.append(gradients(outputs, cotangents, inputs))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("names", FACTORS)
def test_gradcheck(names) -> None:
    given = factors(FACTORS[names], (3, 4, 3, 2), torch.float64)
    x, r = (torch.randn(3, 4, 3, 2, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(lambda x, r: call(x, r, **given), (x, r))


@pytest.mark.parametrize("used", [0, 1], ids=["y", "energy"])
@pytest.mark.parametrize("names", FACTORS)
def test_either_output_alone(names, used) -> None:
    given = factors(FACTORS[names], (3, 4, 3, 2), torch.float32)
    x, r = (torch.randn(3, 4, 3, 2, requires_grad=True) for _ in range(2))
    found = []
    for recover in (True, False):
        output = call(x, r, **given, recover=recover)[used]
        found.append(torch.autograd.grad(output.sum(), [x, r], allow_unused=True))
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-6)


def test_compiles_without_a_graph_break() -> None:
    x, r = (torch.randn(3, 4, 5, 5, requires_grad=True) for _ in range(2))

    def step(function) -> list[Tensor]:
        y, energy = function(x, r, torch.rand(3).round())
        return [y, energy, *torch.autograd.grad(y.square().sum() + energy.sum(), [x, r])]

    torch.manual_seed(0)
    ours = step(call)
    torch.manual_seed(0)
    for a, b in zip(ours, step(torch.compile(call, fullgraph=True)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@READS_GRAD
@pytest.mark.parametrize("names", FACTORS)
def test_opcheck_backward(names) -> None:
    given = factors(FACTORS[names], (3, 4, 5, 2), torch.float32)
    x, y, grad_y = (torch.randn(3, 4, 5, 2) for _ in range(3))
    args = (grad_y, torch.rand(3), None, y, x, given.get("scale"), given.get("keep"), "none", 2.0)
    torch.library.opcheck(
        torch.ops.trgl.residual_energy_backward.default,
        (*args, torch.float32, [True, True, False]),
    )


@pytest.mark.parametrize(
    ("relu", "received"),
    [(True, "x beside a ReLU's output"), (False, "x with a gradient of scale wanted")],
)
def test_what_cannot_be_recovered_is_refused(relu, received) -> None:
    x = torch.randn(2, 3)
    with pytest.raises(ValueError, match=rf"residual_energy_backward: .*; received {received}\. "):
        torch.ops.trgl.residual_energy_backward.default(
            x, torch.ones(2), x if relu else None, x, x, torch.ones(3), None, "none", 2.0,
            torch.float32, [True, True, not relu],
        )  # fmt: skip
