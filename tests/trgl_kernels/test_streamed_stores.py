"""Maps that are written past the caches: the same numbers, wherever a plane or row begins."""

import ctypes
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

import trgl_kernels as kernels
from trgl_kernels import extension

# planes of 97·101 values and rows of 27 end within a line: such a map goes through the caches
SHAPES = {"odd": (8, 27, 97, 101), "even": (8, 32, 96, 96)}
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
THREADS = (1, 16)  # with one the maps of these shapes are past the border, with many they are not

Operands = tuple[Tensor, Tensor, Tensor]  # z or r, x, [C]
Outputs = tuple[Tensor, ...]


@pytest.fixture(autouse=True)
def border(engine) -> Iterator[int]:
    """The bytes of a map for each thread from which on it is written past the caches."""
    if engine != "compiled":
        pytest.skip("only the compiled engine chooses between stores")
    of_library = ctypes.CDLL(str(extension.LIBRARY)).trgl_streamed_bytes
    of_library.restype = ctypes.c_int64
    threads = torch.get_num_threads()
    yield of_library()
    torch.set_num_threads(threads)


def batch_norm_residual_energy(z: Tensor, x: Tensor, weight: Tensor, **options) -> Outputs:
    mean, var = torch.zeros_like(weight), torch.ones_like(weight)
    return kernels.batch_norm_residual_energy(
        z, x, weight, -weight, mean, var, **{"training": True, "activation": "relu"} | options
    )


def batch_norm_relu(z: Tensor, _: Tensor, weight: Tensor, *, training: bool = True) -> Outputs:
    mean, var = torch.zeros_like(weight), torch.ones_like(weight)
    return (kernels.batch_norm_relu(z, weight, -weight, mean, var, training=training),)


def keep(z: Tensor) -> Tensor:
    """DropPath's factors: the first sample is dropped."""
    return torch.linspace(0.0, 1.25, len(z))


OPS: dict[str, Callable[[Tensor, Tensor, Tensor], Outputs]] = {
    "batch_norm_residual_energy": batch_norm_residual_energy,
    "without ReLU": lambda z, x, w: batch_norm_residual_energy(z, x, w, activation="none"),
    "with keep": lambda z, x, w: batch_norm_residual_energy(z, x, w, keep=keep(z)),
    "p = 1.5": lambda z, x, w: batch_norm_residual_energy(z, x, w, p=1.5, keep=keep(z)),
    "evaluation": lambda z, x, w: batch_norm_residual_energy(z, x, w, training=False),
    "batch_norm_relu": batch_norm_relu,
    "batch_norm_relu, evaluation": lambda z, x, w: batch_norm_relu(z, x, w, training=False),
    "residual_energy": lambda r, x, w: kernels.residual_energy(x, r, activation="relu"),
    "with scale": lambda r, x, w: kernels.residual_energy(x, r, scale=w, keep=keep(x)),
    "displacement_energy": lambda y, x, w: (kernels.displacement_energy(x, y),),
}
LAYER_NORMS: dict[str, Callable[[Tensor, Tensor, Tensor], Outputs]] = {
    "plain": lambda r, x, w: kernels.residual_energy_layer_norm(x, r, w, -w),
    "with scale": lambda r, x, w: kernels.residual_energy_layer_norm(
        x, r, w, -w, scale=w, keep=keep(x)
    ),
}


def draw(shape: tuple[int, ...], dtype: torch.dtype, *, last: bool = False) -> Tensor:
    memory = torch.channels_last if last else torch.contiguous_format
    return torch.randn(shape).to(dtype).contiguous(memory_format=memory)


def compare(
    call: Callable[[Tensor, Tensor, Tensor], Outputs], operands: Operands, border: int, wanted: str
) -> None:
    """Holds that both ways of storing give the same outputs and gradients, bit by bit."""
    assert THREADS[0] * border <= min(t.nbytes for t in operands[:2])
    assert max(t.nbytes for t in operands[:2]) < THREADS[1] * border
    found = []
    for threads in THREADS:
        torch.set_num_threads(threads)
        given = {name: t.detach().clone() for name, t in zip("zxw", operands, strict=True)}
        leaves = [given[name].requires_grad_() for name in wanted]
        outputs = call(*given.values())
        torch.manual_seed(1)
        grads = [torch.randn(y.shape).to(y.dtype) for y in outputs]
        gradients = torch.autograd.grad(outputs, leaves, grads, allow_unused=True)
        found.append([*outputs, *(g for g in gradients if g is not None)])
    assert len(found[0]) > len(outputs)
    for streamed, cached in zip(*found, strict=True):
        assert torch.equal(streamed, cached)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("op", OPS)
def test_past_the_caches_numbers_are_the_same(op, layout, shape, dtype, border) -> None:
    torch.manual_seed(0)
    z, x = (draw(SHAPES[shape], TYPES[dtype], last=layout == "channels_last") for _ in range(2))
    compare(OPS[op], (z, x, torch.rand(z.shape[1]) - 0.5), border, "zxw")


@pytest.mark.parametrize("wanted", ["z", "x", "w"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("op", ["batch_norm_residual_energy", "without ReLU", "evaluation"])
def test_past_the_caches_one_gradient_alone_is_the_same(op, layout, wanted, border) -> None:
    torch.manual_seed(0)
    z, x = (draw(SHAPES["even"], torch.float32, last=layout == "channels_last") for _ in range(2))
    compare(OPS[op], (z, x, torch.rand(z.shape[1]) - 0.5), border, wanted)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("width", [384, 217])
@pytest.mark.parametrize("op", LAYER_NORMS)
def test_past_the_caches_layer_norm_is_the_same(op, width, dtype, border) -> None:
    torch.manual_seed(0)
    r, x = (draw((8, 1300, width), TYPES[dtype]) for _ in range(2))
    compare(LAYER_NORMS[op], (r, x, torch.rand(width) - 0.5), border, "zxw")


@pytest.mark.parametrize("op", ["residual_energy", "with scale"])
def test_past_the_caches_a_half_residue_on_a_float32_stream_is_the_same(op, border) -> None:
    torch.manual_seed(0)
    r, x = (draw(SHAPES["even"], dtype) for dtype in (torch.bfloat16, torch.float32))
    compare(OPS[op], (r, x, torch.rand(r.shape[1]) - 0.5), border, "zxw")
