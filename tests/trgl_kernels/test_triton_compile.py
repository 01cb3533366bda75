"""Every Triton kernel compiles to machine code for sm_80 and sm_90, as it would be launched.

The operators run on tensors without data (device "meta"); each launch is recorded instead of made,
and its kernel is compiled with the types, the alignments and the constants that it was given. No
GPU is needed. Registers that do not fit and loads that are not wide show in the machine code.
"""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

import trgl_kernels.cuda as engine
from trgl_kernels.cuda import runtime, statistics, tiles

if triton.knobs.runtime.interpret:
    pytest.skip(
        "the interpreter replaces the compiler: unset TRITON_INTERPRET", allow_module_level=True
    )

NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16


@dataclass(frozen=True)
class Case:
    """Inputs of both operators; `dtypes` are those of the residue's side and of the shortcut."""

    shape: tuple[int, ...]
    dtypes: tuple[torch.dtype, torch.dtype] = (F32, F32)
    last: bool = False
    activation: str = "relu"
    p: float = 2.0
    training: bool = True
    options: bool = True  # weight, bias, scale, keep
    sms: tuple[int, ...] = (90,)


CASES = {
    "large": Case((64, 16, 96, 96), sms=(80, 90)),
    "large-bfloat16": Case((64, 16, 96, 96), (BF16, BF16), sms=(80, 90)),
    "large-last": Case((64, 16, 96, 96), last=True, sms=(80, 90)),
    "large-bfloat16-last": Case((256, 512, 14, 14), (BF16, BF16), last=True, sms=(80, 90)),
    "odd-planes": Case((256, 2048, 7, 7)),
    "odd-planes-bfloat16": Case((256, 2048, 7, 7), (BF16, BF16)),
    "odd-everything-last": Case((8, 17, 7, 7), (F16, BF16), last=True, p=3.0),
    "mixed": Case((8, 64, 14, 14), (BF16, F32), p=1.5),
    "evaluation": Case((8, 64, 14, 14), training=False, activation="none", p=1.0),
    "plain": Case((8, 64, 14, 14), activation="none", options=False),
    "small": Case((2, 8, 4, 4)),
    "one": Case((1, 1, 1, 2)),
    "tokens": Case((64, 197, 768), (BF16, BF16), activation="none"),
    "wide-tokens": Case((64, 197, 4096), activation="none", sms=(80, 90)),
    "odd-tokens": Case((8, 30, 3001), (F16, BF16), activation="none", p=1.5),
    "widest-tokens": Case((8, 30, 10_000), (BF16, BF16), activation="none", sms=(80, 90)),
    "64-bit": Case((70_000, 64, 32, 32), (F16, F16)),
}
# tensors as large as the input that a kernel reads and writes in the case "relu, all gradients"
MAPS = {
    "batch_norm_residual_energy": {
        "batch_kernel": (1, 0),
        "forward_kernel": (2, 1),
        "backward_sums_kernel": (3, 1),
        "backward_kernel": (2, 1),
    },
    "batch_norm_relu": {
        "batch_kernel": (1, 0),
        "rectify_kernel": (1, 1),
        "backward_sums_kernel": (2, 0),
        "backward_kernel": (2, 1),
    },
    "residual_energy": {"forward_kernel": (2, 1), "backward_with_scale_kernel": (3, 2)},
    "displacement_energy": {"forward_kernel": (2, 0), "backward_kernel": (2, 2)},
    "residual_energy_layer_norm": {"forward_kernel": (2, 2), "backward_kernel": (4, 2)},
}
ROWS_OF_14 = ("residual_energy_layer_norm", "large-bfloat16-last")


@dataclass(frozen=True)
class Launch:
    """What a launch was given."""

    kernel: Any
    args: tuple[Any, ...]
    num_warps: int
    constants: dict[str, Any]


@dataclass(frozen=True)
class Machine:
    """What the compiler made of it."""

    registers: int
    stack: int
    local: int
    ptx: str
    ttir: str


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[Launch]:
    """Launches that were recorded instead of made."""
    recorded: list[Launch] = []

    def record(kernel: Any, programs: int, *args: Any, num_warps: int, **constants: Any) -> None:
        assert 0 < programs < 2**31
        recorded.append(Launch(kernel, args, num_warps, constants))

    for module in (runtime, statistics):
        monkeypatch.setattr(module, "run", record)
    return recorded


def batch_norm_residual_energy(case: Case) -> None:
    z, x, y = maps(case)
    batch, channels = case.shape[:2]
    vector = torch.empty(channels, device="meta")
    affine = vector if case.options else None
    keep = torch.empty(batch, device="meta") if case.options else None
    forward, backward = (
        engine.OPERATORS[f"batch_norm_residual_energy{suffix}"] for suffix in ("", "_backward")
    )
    _, energy, mean, rstd = forward(
        z, x, affine, affine, vector, vector, case.training, 0.1, 1e-5, case.activation, keep,
        case.p, True,
    )  # fmt: skip
    backward(
        y, energy, z, y if case.activation == "relu" else None, affine, affine, mean, rstd,
        case.training, case.activation, keep, case.p, x.dtype, [True] * 4,
    )  # fmt: skip


def batch_norm_relu(case: Case) -> None:
    z, _, _ = maps(case)
    vector = torch.empty(case.shape[1], device="meta")
    affine = vector if case.options else None
    forward, backward, again = (
        engine.OPERATORS[f"batch_norm_relu{suffix}"] for suffix in ("", "_backward", "_apply")
    )
    y, mean, rstd = forward(z, affine, affine, vector, vector, case.training, 0.1, 1e-5)
    backward(y, z, affine, affine, mean, rstd, case.training, [True] * 3)
    again(z, affine, affine, mean, rstd)


def residual_energy(case: Case) -> None:
    r, x, y = maps(case)
    channels = case.shape[1 if len(case.shape) == 4 else -1]
    scale = torch.empty(channels, device="meta") if case.options else None
    keep = torch.empty(case.shape[0], device="meta") if case.options else None
    forward, backward = (
        engine.OPERATORS[f"residual_energy{suffix}"] for suffix in ("", "_backward")
    )
    _, energy = forward(x, r, case.activation, scale, keep, case.p, True, False)
    mask = y if case.activation == "relu" else None
    for with_scale in (True, False):
        backward(
            y, energy, mask, r, None, scale, keep, case.activation, case.p, x.dtype,
            [True, True, with_scale],
        )  # fmt: skip
    if mask is None:
        backward(y, energy, None, y, x, scale, keep, "none", case.p, x.dtype, [False, True, False])


def displacement_energy(case: Case) -> None:
    x, y, _ = maps(case)
    forward, backward = (
        engine.OPERATORS[f"displacement_energy{suffix}"] for suffix in ("", "_backward")
    )
    energy = forward(x, y, case.p)
    backward(energy, x, y, case.p, [True, True])


def residual_energy_layer_norm(case: Case) -> None:
    r, x, y = (t.contiguous() for t in maps(case))
    vector = torch.empty(case.shape[-1], device="meta") if case.options else None
    keep = torch.empty(case.shape[0], device="meta") if case.options else None
    forward, backward = (
        engine.OPERATORS[f"residual_energy_layer_norm{suffix}"] for suffix in ("", "_backward")
    )
    _, normed, energy, mean, rstd = forward(
        x, r, vector, vector, 1e-5, vector, keep, case.p, True, False
    )
    for recovered in (False, True):
        backward(
            y, normed, energy, y, None if recovered else r, x if recovered else None, vector,
            vector, mean, rstd, vector, keep, case.p, x.dtype, r.dtype,
            [True] * 4 + [not recovered],
        )  # fmt: skip


def maps(case: Case) -> Iterator[Tensor]:
    """Residue's side, shortcut and output."""
    for dtype in (*case.dtypes, torch.promote_types(*case.dtypes)):
        tensor = torch.empty(case.shape, dtype=dtype, device="meta")
        layout = torch.channels_last if case.last else torch.contiguous_format
        yield tensor.contiguous(memory_format=layout)


def source(launch: Launch) -> ASTSource:
    """The launch as Triton's compiler is told of it: what is None, 1, or a multiple of 16."""
    signature: dict[str, str] = {}
    constants = dict(launch.constants)
    attributes = {}
    for i, (name, value) in enumerate(zip(launch.kernel.arg_names, launch.args, strict=False)):
        if value is None or (isinstance(value, int) and value == 1):
            signature[name], constants[name] = "constexpr", value
            continue
        if isinstance(value, Tensor):
            signature[name] = f"*{NAMES[value.dtype]}"
        elif isinstance(value, float):
            signature[name] = "fp32"
        else:
            signature[name] = "i32" if value < 2**31 else "i64"
        if isinstance(value, Tensor) or (isinstance(value, int) and value % 16 == 0):
            attributes[(i,)] = [["tt.divisibility", 16]]
    signature |= dict.fromkeys(launch.constants, "constexpr")
    assert list(signature) == launch.kernel.arg_names, "an argument is missing from the launch"
    return ASTSource(launch.kernel, signature, constants, attributes)


def compiled(launch: Launch, sm: int, folder: Path) -> Machine:
    """The machine code of a launch and what it needs."""
    binary = triton.compile(
        source(launch),
        target=GPUTarget("cuda", sm, 32),
        options={"num_warps": launch.num_warps, "enable_fp_fusion": True},
    )
    cubin = folder / "kernel.cubin"
    cubin.write_bytes(binary.asm["cubin"])
    usage = subprocess.run(
        [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", cubin],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    counts = dict(re.findall(r"(REG|STACK|LOCAL):(\d+)", usage))
    return Machine(
        int(counts["REG"]),
        int(counts["STACK"]),
        int(counts["LOCAL"]),
        binary.asm["ptx"],
        binary.asm["ttir"],
    )


OPERATORS: dict[str, Callable[[Case], None]] = {
    "residual_energy": residual_energy,
    "batch_norm_residual_energy": batch_norm_residual_energy,
    "displacement_energy": displacement_energy,
    "batch_norm_relu": batch_norm_relu,
    "residual_energy_layer_norm": residual_energy_layer_norm,
}


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("name", CASES)
def test_compiles_without_spilling(
    name: str, operator: str, launches: list[Launch], tmp_path: Path
) -> None:
    OPERATORS[operator](CASES[name])
    assert launches
    for sm in CASES[name].sms:
        for launch in launches:
            machine = compiled(launch, sm, tmp_path)
            what = f"{launch.kernel.__name__} {launch.constants} for sm_{sm}: {machine.registers}"
            assert (machine.stack, machine.local) == (0, 0), what


@pytest.mark.parametrize(
    ("operator", "name"),
    [
        (operator, name)
        for operator in OPERATORS
        for name in CASES
        # rows of 14 features are no wide access
        if name.startswith("large") and (operator, name) != ROWS_OF_14
    ],
)
def test_large_tensors_are_accessed_sixteen_bytes_at_a_time(
    name: str, operator: str, launches: list[Launch], tmp_path: Path
) -> None:
    OPERATORS[operator](CASES[name])
    seen = set()
    for launch in launches:
        loads, stores = MAPS[operator].get(launch.kernel.__name__, (0, 0))
        if loads == 0:
            continue
        seen.add(launch.kernel.__name__)
        ptx = compiled(launch, 90, tmp_path).ptx
        columns = launch.constants.get("COLUMNS") or launch.constants["VECTOR"]
        elements = launch.constants["ROWS"] * columns
        itemsize = CASES[name].dtypes[0].itemsize
        wide = elements * itemsize // (16 * 32 * launch.num_warps)
        assert wide > 0
        assert len(re.findall(r"ld\.global\S*\.v4\.b32", ptx)) >= loads * wide
        assert len(re.findall(r"st\.global\S*\.v4\.b32", ptx)) == stores * wide
    assert seen == set(MAPS[operator])


@pytest.mark.parametrize("operator", [o for o in OPERATORS if o != "residual_energy_layer_norm"])
@pytest.mark.parametrize("name", ["odd-planes", "odd-planes-bfloat16"])
def test_odd_planes_are_accessed_wide_where_the_walk_is_flat(
    name: str, operator: str, launches: list[Launch], tmp_path: Path
) -> None:
    """An odd plane of a channel starts anywhere, and is read by element; a sample's C·S do not."""
    OPERATORS[operator](CASES[name])
    flat = [launch for launch in launches if "COLUMNS" not in launch.constants]
    assert {launch.kernel.__name__ for launch in flat} & {"forward_kernel", "rectify_kernel"}
    for launch in flat:
        ptx = compiled(launch, 90, tmp_path).ptx
        assert "ld.global.v4.b32" in ptx, launch.kernel.__name__
        assert "st.global.v4.b32" in ptx or operator == "displacement_energy"
    for launch in launches:
        if launch.constants.get("VECTOR") == 1 and "COLUMNS" in launch.constants:
            assert ".v4" not in compiled(launch, 90, tmp_path).ptx, launch.kernel.__name__


@pytest.mark.parametrize("operator", OPERATORS)
def test_offsets_into_maps_have_64_bits(
    operator: str, launches: list[Launch], tmp_path: Path
) -> None:
    OPERATORS[operator](CASES["64-bit"])
    seen = 0
    for launch in launches:
        code = compiled(launch, 90, tmp_path).ttir
        # pointers to float16 are pointers into maps: vectors are float32
        spread = dict(re.findall(r"(%\w+) = tt\.splat (%\w+) : !tt\.ptr<f16>", code))
        places = re.findall(
            r"tt\.addptr (%\w+), \S+ : (?:tensor<[\dx]*)?!tt\.ptr<f16>>?, (\S+)", code
        )
        for pointer, offset in places:
            # 32 bits count inside a program's share, whose start was added in 64 bits before
            start = spread.get(pointer, pointer)
            assert "i64" in offset or not start.endswith("_ptr"), launch.kernel.__name__
        seen += sum("i64" in offset for _, offset in places)
    assert seen >= 4


def test_planes_of_even_size_are_loaded_wide_without_a_multiple_of_sixteen(
    launches: list[Launch], tmp_path: Path
) -> None:
    batch_norm_residual_energy(Case((256, 512, 14, 14)))
    for launch in launches:
        if launch.kernel.__name__ in MAPS["batch_norm_residual_energy"]:
            assert "ld.global.v4.b32" in compiled(launch, 90, tmp_path).ptx


def test_every_kernel_is_among_the_cases(launches: list[Launch]) -> None:
    modules = (
        tiles,
        statistics,
        engine.residual_energy,
        engine.displacement_energy,
        engine.batch_norm_gradient,
        engine.batch_norm_relu,
        engine.batch_norm_residual_energy,
        engine.residual_energy_layer_norm,
        engine.residual_energy_layer_norm_backward,
    )
    kernels = {
        value
        for module in modules
        for name, value in vars(module).items()
        if name.endswith("_kernel") and value.__module__ == module.__name__
    }
    for operator in OPERATORS.values():
        for case in CASES.values():
            operator(case)
    assert kernels == {launch.kernel for launch in launches}


def test_importing_the_engine_asks_no_device() -> None:
    program = """
import torch

def refuse(*_):
    raise AssertionError("a device was asked for")

torch._C._cuda_getDeviceCount = torch._C._cuda_getDevice = torch._C._cuda_init = refuse
import trgl_kernels

assert torch._C._dispatch_has_kernel_for_dispatch_key("trgl::residual_energy", "CUDA")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
