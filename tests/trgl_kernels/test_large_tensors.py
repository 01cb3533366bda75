"""More than 2³¹ elements: offsets that do not fit 32 bits reach the right place.

The inputs are overlapping views of one buffer of bfloat16, all zeros but for a few values beyond
the limit, so that what a wrong offset reads shows. Two operators take seconds; TRGL_TEST_LARGE=1
runs the others too, two minutes more.
"""

import os
from pathlib import Path

import pytest
import torch
from oracle import INTERPRETED
from torch import Tensor

import trgl_kernels

SIZE = 2**31 + 2**12
VALUES = torch.tensor([1.0, -2.0, 3.0])
NEEDED = 12  # GiB: the buffer, and the two maps of residual_energy_layer_norm


slow = pytest.mark.skipif(
    not os.environ.get("TRGL_TEST_LARGE"), reason="takes a minute: TRGL_TEST_LARGE=1 runs it"
)


def available() -> float:
    """GiB of memory that can still be had; 0 where the system does not tell."""
    table = Path("/proc/meminfo")
    if not table.exists():
        return 0.0
    lines = dict(line.split(":") for line in table.read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) / 2**20


@pytest.fixture
def pair(engine) -> tuple[Tensor, Tensor]:
    """x, all zeros, and r with some values in its last places, [2, 16, *]."""
    if INTERPRETED or engine != "compiled":
        pytest.skip("minutes and many times the memory: the compiled engine has the test")
    if available() < NEEDED:
        pytest.skip(f"needs {NEEDED} GiB of free memory, and {available():.0f} are there")
    buffer = torch.zeros(SIZE + 8, dtype=torch.bfloat16)
    buffer[SIZE : SIZE + 3] = VALUES.bfloat16()
    shape = (2, 16, SIZE // 32)
    return buffer[:SIZE].view(shape), buffer[8:].view(shape)


def test_residual_energy(pair) -> None:
    y, energy = trgl_kernels.residual_energy(*pair)
    assert energy.tolist() == [0.0, 14.0]
    assert torch.equal(y.view(-1)[-8:-5].float(), VALUES)
    assert not y[0].any()


def test_displacement_energy(pair) -> None:
    assert trgl_kernels.displacement_energy(*pair).tolist() == [0.0, 14.0]
    _, grad = torch.ops.trgl.displacement_energy_backward.default(
        torch.ones(2), *pair, 2.0, [False, True]
    )
    assert torch.equal(grad.view(-1)[-8:-5].float(), 2.0 * VALUES)
    assert not grad[0].any()


@slow
def test_batch_norm_residual_energy(pair) -> None:
    x, z = pair
    bias = torch.zeros(16)
    statistics = torch.zeros(16), torch.ones(16)
    y, energy = trgl_kernels.batch_norm_residual_energy(
        z, x, torch.full((16,), 2.0), bias, *statistics, training=False, eps=0.0
    )
    assert energy.tolist() == [0.0, 56.0]
    assert torch.equal(y.view(-1)[-8:-5].float(), (2.0 * VALUES).relu())
    assert not y[0].any()


@slow
def test_batch_norm_relu(pair) -> None:
    z, bias = pair[1], torch.zeros(16)
    bias[15] = 1.0
    y = trgl_kernels.batch_norm_relu(
        z, None, bias, torch.zeros(16), torch.ones(16), training=False, eps=0.0
    )
    assert torch.equal(y.view(-1)[-8:-5].float(), (VALUES + 1.0).relu())
    assert not y[:, :15].any()


@slow
def test_residual_energy_layer_norm(pair) -> None:
    x, r = (t.view(2, -1, 64) for t in pair)
    y, normed, energy = trgl_kernels.residual_energy_layer_norm(x, r, None, None)
    assert energy.tolist() == [0.0, 14.0]
    assert torch.equal(y.view(-1)[-8:-5].float(), VALUES)
    expected = torch.nn.functional.layer_norm(y[-1, -1].float(), (64,))
    torch.testing.assert_close(normed[-1, -1].float(), expected, rtol=1e-2, atol=1e-2)
    assert not normed[0].any()
