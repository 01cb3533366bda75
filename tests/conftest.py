"""The engine under test, warnings, threads, and the folder of downloaded data.

TRGL_TEST_ENGINE names the engine of the operators for the whole process: on CPU tensors compiled
(the default), reference, or triton (in Triton's interpreter: TRITON_INTERPRET=1), and on CUDA
tensors cuda (the Triton kernels on a GPU). An engine that is not there is an error, never a quiet
fall-back to another one.
"""

import gc
import os
import signal
from pathlib import Path

import pytest

ENGINES = ("compiled", "reference", "triton", "cuda")
ENGINE = os.environ.get("TRGL_TEST_ENGINE", "compiled")

if ENGINE not in ENGINES:
    raise pytest.UsageError(f"TRGL_TEST_ENGINE is one of {', '.join(ENGINES)}; received {ENGINE!r}")
if ENGINE in ("reference", "triton"):
    os.environ["TRGL_KERNELS_DISABLE_EXTENSION"] = "1"
if ENGINE == "triton" and os.environ.get("TRITON_INTERPRET") != "1":
    raise pytest.UsageError(
        "TRGL_TEST_ENGINE=triton runs the kernels in the interpreter: set TRITON_INTERPRET=1"
    )
if ENGINE == "cuda" and os.environ.get("TRITON_INTERPRET") == "1":
    raise pytest.UsageError(
        "TRGL_TEST_ENGINE=cuda runs the kernels on a GPU: unset TRITON_INTERPRET"
    )

# both read the environment when they are imported
import gpu  # noqa: E402
import torch  # noqa: E402

import trgl_kernels  # noqa: E402

if ENGINE == "triton":
    import trgl_kernels.cuda

    trgl_kernels.cuda.register("CPU")
if ENGINE == "cuda" and not torch.cuda.is_available():
    raise pytest.UsageError(
        "TRGL_TEST_ENGINE=cuda needs a GPU, and torch.cuda.is_available() is False. "
        "Install a torch with CUDA on a machine with a GPU, or choose another engine"
    )


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(2)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # begun in the background of a shell: processes of tests would inherit it, and never end
        signal.signal(signal.SIGINT, signal.default_int_handler)
    device, wanted = ("cuda", "triton") if ENGINE == "cuda" else ("cpu", ENGINE)
    for operator, devices in trgl_kernels.info()["engines"].items():
        found = devices[device]
        if found["engine"] != wanted:
            raise pytest.UsageError(
                f"the tests are for engine {ENGINE}, but {operator} runs on "
                f"{found['engine']}: {found['why_not'][wanted]}. "
                "Run `make build`, or choose another engine: TRGL_TEST_ENGINE=reference"
            )
    if ENGINE == "cuda":
        gpu.use(device)
        for message in gpu.WARNINGS:
            config.addinivalue_line("filterwarnings", f"ignore:{message}:UserWarning")


def pytest_report_header() -> str:
    simd = trgl_kernels.info()["extension"]["simd"]
    chip = torch.cuda.get_device_name() if ENGINE == "cuda" else simd
    return f"engine: {ENGINE}{f' ({chip})' if chip else ''}, torch {torch.__version__}, 2 threads"


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
