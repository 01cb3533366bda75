"""Every operator's launches on tensors without data, and the machine code of their kernels."""

import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

import trgl_kernels.cuda as engine

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
    "tokens": Case((64, 197, 768), (BF16, BF16), activation="none", sms=(80, 90)),
    "narrow-tokens": Case((256, 197, 384), activation="none", sms=(80, 90)),
    "wide-tokens": Case((64, 197, 4096), activation="none", sms=(80, 90)),
    "odd-tokens": Case((8, 30, 3001), (F16, BF16), activation="none", p=1.5),
    "widest-tokens": Case((8, 30, 10_000), (BF16, BF16), activation="none", sms=(80, 90)),
    "64-bit": Case((70_000, 64, 32, 32), (F16, F16)),
}


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
    cubin: bytes


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
        binary.asm["cubin"],
    )


@cache
def instructions(cubin: bytes) -> str:
    """What ptxas made of a kernel. Half a second each, and operators and cases share kernels."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run(
            [triton.knobs.nvidia.cuobjdump.path, "--dump-sass", file.name],
            capture_output=True,
            text=True,
            check=True,
        ).stdout


OPERATORS: dict[str, Callable[[Case], None]] = {
    "residual_energy": residual_energy,
    "batch_norm_residual_energy": batch_norm_residual_energy,
    "displacement_energy": displacement_energy,
    "batch_norm_relu": batch_norm_relu,
    "residual_energy_layer_norm": residual_energy_layer_norm,
}
