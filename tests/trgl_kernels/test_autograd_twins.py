"""The operators' autograd in C++ against its twin in Python, which serves without the extension."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import twin_cases

TELL = """
import sys, torch, trgl_kernels, twin_cases
assert trgl_kernels.info()["engines"]["residual_energy"]["cpu"]["engine"] == "reference"
torch.save(dict(twin_cases.outcomes()), sys.argv[1])
"""


@pytest.fixture(scope="module")
def of_python(tmp_path_factory):
    path = tmp_path_factory.mktemp("twins") / "outcomes.pt"
    folders = [str(Path(twin_cases.__file__).parent), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "TRGL_KERNELS_DISABLE_EXTENSION": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, folders)),
    }
    subprocess.run([sys.executable, "-c", TELL, path], env=environment, check=True)
    return torch.load(path)


@pytest.fixture(scope="module")
def of_compiled():
    return dict(twin_cases.outcomes())


@pytest.mark.parametrize("case", twin_cases.CASES)
def test_the_twins_agree(engine, request, case) -> None:
    if engine != "compiled":
        pytest.skip("needs the compiled engine beside the reference")
    compiled = request.getfixturevalue("of_compiled")[case]
    python = request.getfixturevalue("of_python")[case]
    assert compiled["kept"] == python["kept"]
    assert compiled["refused"] == python["refused"]
    assert compiled["gradients"].keys() == python["gradients"].keys()
    for name, gradient in compiled["gradients"].items():
        torch.testing.assert_close(gradient, python["gradients"][name], rtol=1e-4, atol=1e-5)
