"""Installing ends well without a compiler: setup.py notes the reason instead of failing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("changed", "reason", "remedy"),
    [
        ({"PATH": "{empty}"}, "no C++ compiler was found", "install a C++ compiler"),
        ({"CXX": "/nowhere/c++"}, "CXX=/nowhere/c++ names no program", "unset CXX"),
        ({"CXX": "false"}, "compiling failed", "read the compiler's messages"),
    ],
    ids=["no compiler", "CXX names nothing", "compiler fails"],
)
def test_a_build_that_cannot_be_done_is_explained(tmp_path, changed, reason, remedy):
    environment = {name: value for name, value in os.environ.items() if name != "CXX"}
    environment |= {name: value.format(empty=tmp_path) for name, value in changed.items()}
    folders = ["--build-lib", str(tmp_path / "lib"), "--build-temp", str(tmp_path / "temp")]
    run = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", *folders],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert run.stderr.count(f"trgl: the compiled engine was not built: {reason}") == 1
    package = tmp_path / "lib" / "trgl_kernels"
    facts = json.loads((package / "_C.json").read_text())
    assert facts["reason"].startswith(reason)
    assert facts["remedy"].startswith(remedy)
    assert not (package / "_C.so").exists()


def test_what_is_no_python_is_shipped_too(tmp_path):
    run = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    shipped = tmp_path / "trgl" / "recipes" / "published.csv"
    assert shipped.read_bytes() == (ROOT / "trgl" / "recipes" / "published.csv").read_bytes()
    assert (tmp_path / "trgl" / "py.typed").exists()
