"""The compiled engine on the narrower instruction sets that this machine also has."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import trgl_kernels

HERE = Path(__file__).parent
FILES = (
    "residual_energy",
    "residual_energy_recovery",
    "half_residues",
    "displacement_energy",
    "batch_norm_residual_energy",
    "batch_norm_residual_energy_autograd",
    "batch_norm_relu",
    "batch_norm_relu_autograd",
    "residual_energy_layer_norm",
    "residual_energy_layer_norm_autograd",
    "streamed_stores",
)
NUMBERS = (
    "test_values_and_gradients or bit_by_bit or last_bit or last_places or recovered or infinity "
    "or half_residues or subnormal or past_the_caches"
)
# planes of 97·101 in channels_last: seconds, for rows of channels that smaller planes have too
LONG = "channels_last and 101"


@pytest.mark.parametrize("isa", ["base", "avx2"])
def test_the_op_tests_pass_on_it(isa, engine) -> None:
    if engine != "compiled":
        pytest.skip("only the compiled engine has instruction sets")
    if isa == trgl_kernels.info()["extension"]["simd"].lower():
        pytest.skip("the widest that this machine has, which all other tests run on")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command += ["-k", f"({NUMBERS}) and not strided and not ({LONG})"]
    command += [str(HERE / f"test_{name}.py") for name in FILES]
    environment = {**os.environ, "TRGL_KERNELS_CPU_ISA": isa}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
