"""The engine under test, warnings, threads, and the folder of downloaded data.

TRGL_TEST_ENGINE names the engine of the operators on CPU tensors for the whole process: compiled
(the default), reference, or triton (in Triton's interpreter: TRITON_INTERPRET=1). An engine that is
not there is an error, never a quiet fall-back to another one.
"""

import gc
import os
import signal
from pathlib import Path

import pytest

ENGINES = ("compiled", "reference", "triton")
ENGINE = os.environ.get("TRGL_TEST_ENGINE", "compiled")

if ENGINE not in ENGINES:
    raise pytest.UsageError(f"TRGL_TEST_ENGINE is one of {', '.join(ENGINES)}; received {ENGINE!r}")
if ENGINE != "compiled":
    os.environ["TRGL_KERNELS_DISABLE_EXTENSION"] = "1"
if ENGINE == "triton" and os.environ.get("TRITON_INTERPRET") != "1":
    raise pytest.UsageError(
        "TRGL_TEST_ENGINE=triton runs the kernels in the interpreter: set TRITON_INTERPRET=1"
    )

# both read the environment when they are imported
import torch  # noqa: E402

import trgl_kernels  # noqa: E402

if ENGINE == "triton":
    import trgl_kernels.cuda

    trgl_kernels.cuda.register("CPU")


def pytest_configure() -> None:
    torch.set_num_threads(2)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # begun in the background of a shell: processes of tests would inherit it, and never end
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for operator, devices in trgl_kernels.info()["engines"].items():
        if devices["cpu"]["engine"] != ENGINE:
            raise pytest.UsageError(
                f"the tests are for engine {ENGINE}, but {operator} runs on "
                f"{devices['cpu']['engine']}: {devices['cpu']['why_not'][ENGINE]}. "
                "Run `make build`, or choose another engine: TRGL_TEST_ENGINE=reference"
            )


def pytest_report_header() -> str:
    simd = trgl_kernels.info()["extension"]["simd"]
    return f"engine: {ENGINE}{f' ({simd})' if simd else ''}, torch {torch.__version__}, 2 threads"


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def no_garbage_of_others(request: pytest.FixtureRequest) -> None:
    """What other tests left behind does not go while a test counts the bytes that live."""
    if hasattr(request.module, "live_bytes"):
        gc.collect()


@pytest.fixture
def engine() -> str:
    return ENGINE


@pytest.fixture
def data_folder() -> Path:
    """The folder that holds the downloaded data sets, named by TRGL_DATA."""
    folder = os.environ.get("TRGL_DATA")
    if folder is None:
        pytest.skip("TRGL_DATA names no folder with downloaded data sets")
    return Path(folder)
