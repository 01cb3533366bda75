"""Every Triton kernel compiles to machine code for sm_80 and sm_90, as it would be launched.

The operators run on tensors without data (device "meta"); each launch is recorded instead of made,
and its kernel is compiled with the types, the alignments and the constants that it was given. No
GPU is needed. Registers that do not fit and loads that are not wide show in the machine code.
"""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import triton

import trgl_kernels.cuda as engine
from trgl_kernels.cuda import runtime, statistics, tiles

if triton.knobs.runtime.interpret:
    pytest.skip(
        "the interpreter replaces the compiler: unset TRITON_INTERPRET", allow_module_level=True
    )

from machine_code import (
    CASES,
    OPERATORS,
    Case,
    Launch,
    batch_norm_residual_energy,
    compiled,
    instructions,
)

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
# rows of 14 features are no wide access; those of tokens are as wide as in Transformers
LARGE = [
    *((operator, name) for operator in OPERATORS for name in CASES if name.startswith("large")),
    *(("residual_energy_layer_norm", name) for name in ("tokens", "narrow-tokens", "wide-tokens")),
]
LARGE.remove(("residual_energy_layer_norm", "large-bfloat16-last"))
# vectors [C] and [splits, C], float32, that a program with wide rows takes sixteen bytes at a time
READ = {"weight_ptr", "bias_ptr", "scale_ptr"}
WRITTEN = {"grad_weight_ptr", "grad_bias_ptr", "grad_scale_ptr"}


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


@pytest.mark.parametrize(("operator", "name"), LARGE)
@pytest.mark.parametrize("sm", [80, 90])
def test_large_tensors_are_accessed_sixteen_bytes_at_a_time(
    sm: int, name: str, operator: str, launches: list[Launch], tmp_path: Path
) -> None:
    OPERATORS[operator](CASES[name])
    seen = set()
    for launch in launches:
        loads, stores = MAPS[operator].get(launch.kernel.__name__, (0, 0))
        if loads == 0:
            continue
        seen.add(launch.kernel.__name__)
        code = instructions(compiled(launch, sm, tmp_path).cubin)
        columns = launch.constants.get("COLUMNS") or launch.constants["VECTOR"]
        elements = launch.constants["ROWS"] * columns
        itemsize = CASES[name].dtypes[0].itemsize
        at_once = 16 * 32 * launch.num_warps
        wide, across = elements * itemsize // at_once, columns * 4 // at_once
        assert wide > 0
        arguments = zip(launch.kernel.arg_names, launch.args, strict=False)
        given = {argument for argument, value in arguments if value is not None}
        assert code.count("LDG.E.128") >= loads * wide + len(given & READ) * across
        assert code.count("STG.E.128") == stores * wide + len(given & WRITTEN) * across
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
