"""The compiled kernels for AVX-512 keep their vectors whole."""

import platform
import re
import shutil
import subprocess

import pytest

from trgl_kernels import extension

# a lane of a vector register, put there through a mask; a constant that a select takes lies in the
# library itself
LANE = re.compile(r"vbroadcasts[sd] (?![^,]*\(%rip\)).*\{%k\d\}")


@pytest.mark.skipif(shutil.which("objdump") is None, reason="objdump is not installed")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="its instructions are those of x86-64")
def test_no_vector_is_put_together_lane_by_lane() -> None:
    """GCC makes sixteen instructions of a broadcast in an inner loop, if it is written naively."""
    if not extension.LIBRARY.exists():
        pytest.skip("the extension is not built")
    code = subprocess.run(
        ["objdump", "--disassemble", "--no-show-raw-insn", str(extension.LIBRARY)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert "vfmadd" in code
    assert "zmm" in code
    # a select may take one; a naive broadcast makes fifteen, in each of a kernel's many instances
    assert len(LANE.findall(code)) < 64
