"""The compiled kernels keep their vectors whole, and write large maps past the caches."""

import platform
import re
import shutil
import subprocess

import pytest

import trgl_kernels as kernels
from trgl_kernels import extension

# a lane of a vector register, put there through a mask; a constant that a select takes lies in the
# library itself
LANE = re.compile(r"vbroadcasts[sd] (?![^,]*\(%rip\)).*\{%k\d\}")


@pytest.fixture(scope="module")
def code() -> str:
    if shutil.which("objdump") is None:
        pytest.skip("objdump is not installed")
    if platform.machine() != "x86_64":
        pytest.skip("its instructions are those of x86-64")
    if not extension.LIBRARY.exists():
        pytest.skip("the extension is not built")
    return subprocess.run(
        ["objdump", "--disassemble", "--no-show-raw-insn", str(extension.LIBRARY)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def test_no_vector_is_put_together_lane_by_lane(code) -> None:
    """GCC makes sixteen instructions of a broadcast in an inner loop, if it is written naively."""
    assert "vfmadd" in code
    assert "zmm" in code
    # a select may take one; a naive broadcast makes fifteen, in each of a kernel's many instances
    assert len(LANE.findall(code)) < 64


@pytest.mark.parametrize(
    "store", ["vmovntps %zmm", "vmovntps %ymm", "vmovntps %xmm", "movntps %xmm"]
)
def test_every_width_has_stores_past_the_caches(store, code) -> None:
    build = kernels.info()["extension"]["build"]
    if build is None:
        pytest.skip("the extension is switched off")
    if "clang" in build["compiler"]:
        pytest.skip("built by clang, the kernels store through the caches")
    assert re.search(rf"\s{store}", code)
