"""What an engine is held against: float64, and eager PyTorch at the same type."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

INTERPRETED = os.environ.get("TRGL_TEST_ENGINE") == "triton"
TRITON = os.environ.get("TRGL_TEST_ENGINE") in ("triton", "cuda")
DEVICE = torch.get_default_device().type  # of the tests' tensors

# Absolute term of the bound, relative to the tensor's norm: about half a rounding to the tensor's
# type, and for float32 the few roundings that sums in another order differ by.
ROUNDING = {
    torch.float64: 1e-14,
    torch.float32: 3e-7,
    torch.bfloat16: 1e-3,
    torch.float16: 1.2e-4,
}
# The interpreter cuts float32 off where it makes bfloat16 of it: 3.2e-3 of the norm of normal
# numbers are lost, against 1.8e-3 by rounding.
INTERPRETER_ROUNDING = {**ROUNDING, torch.bfloat16: 3e-3}

# opcheck and torch.compile themselves read .grad of a tensor that is no leaf
READS_GRAD = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")

# torch scripts its own decompositions when forward mode is first used
FORWARD_MODE_SCRIPTS = pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")

LAYOUTS = {
    "contiguous": torch.contiguous_format,
    "channels_last": torch.channels_last,
}

# For tests that try what is registered and no numbers: each type and each layout is there, and what
# depends on a layout in one type does so in the other.
ENDS = {
    "float32-contiguous": (torch.float32, torch.contiguous_format),
    "bfloat16-channels_last": (torch.bfloat16, torch.channels_last),
}
PATHS = {**ENDS, "float32-channels_last": (torch.float32, torch.channels_last)}
each_end = pytest.mark.parametrize(("dtype", "layout"), ENDS.values(), ids=ENDS)
each_path = pytest.mark.parametrize(("dtype", "layout"), PATHS.values(), ids=PATHS)


def relative_error(
    actual: Tensor,
    exact: Tensor,  # float64
) -> float:
    """‖actual − exact‖ / ‖exact‖; the plain norm of the error where exact is 0."""
    error = (actual.double() - exact).norm()
    scale = exact.norm()
    return float(error / scale if scale > 0 else error)


def assert_three_way(
    names: Sequence[str],
    engine: Sequence[Tensor],
    eager: Sequence[Tensor],
    exact: Sequence[Tensor],
) -> None:
    """The engine's error is at most twice eager's plus one rounding, tensor by tensor."""
    roundings = INTERPRETER_ROUNDING if INTERPRETED else ROUNDING
    for name, a, b, c in zip(names, engine, eager, exact, strict=True):
        assert a.shape == c.shape, name
        bound = 2.0 * relative_error(b, c) + roundings[a.dtype]
        assert relative_error(a, c) <= bound, name


def away_from_kink(
    x: Tensor,
    r: Tensor,
) -> Tensor:
    """x moved so that x + r keeps clear of a ReLU's kink in every type."""
    u = x + r
    return torch.where(u.abs() < 0.05, x + 0.1 * torch.sign(u) + 0.01, x)


def rounded(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The values that `tensor` has in a type, in float64: what every engine is given."""
    return tensor.to(dtype).double()


def gradients(
    outputs: Sequence[Tensor],
    cotangents: Sequence[Tensor],
    inputs: Sequence[Tensor],
) -> list[Tensor]:
    """Vector-Jacobian products; zeros where an input was not used."""
    found = torch.autograd.grad(list(outputs), list(inputs), list(cotangents), allow_unused=True)
    return [torch.zeros_like(i) if g is None else g for g, i in zip(found, inputs, strict=True)]


def leaf(tensor: Tensor, dtype: torch.dtype, layout: torch.memory_format) -> Tensor:
    """A copy with a type and a layout, for which a gradient is wanted."""
    copy = tensor.to(dtype, copy=True)
    if copy.dim() == 4:
        copy = copy.contiguous(memory_format=layout)
    return copy.detach().requires_grad_()


@contextmanager
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """New memory is full of NaN."""
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def saved_bytes(function, *inputs: Tensor) -> int:
    """Bytes of the storages that autograd keeps for backward beyond the inputs and outputs."""
    known = {t.untyped_storage().data_ptr() for t in inputs}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        outputs = function(*inputs)
    known |= {t.untyped_storage().data_ptr() for t in outputs}
    return sum(size for pointer, size in kept.items() if pointer not in known)
