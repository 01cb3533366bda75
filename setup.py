"""Builds the compiled part of trgl_kernels where that is possible, and explains it where it is not.

The library holds nothing but operator registrations, so it is loaded by torch and needs no Python
headers. Beside it stands _C.json, the facts of the build, which trgl_kernels.extension reads before
it loads anything. Without torch or a compiler, or when the compiler stops, the file says why, and
the package installs all the same and runs on its reference.
"""

import datetime
import json
import os
import runpy
import shlex
import shutil
import subprocess
import sys
import sysconfig
import warnings
from pathlib import Path
from typing import Any

import setuptools
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
# without errno a square root is an instruction, of vectors too
FLAGS = ["-std=c++20", "-O3", "-g0", "-fvisibility=hidden", "-fno-math-errno", "-Wno-psabi"]
OLDEST_TORCH = (2, 11)
OLDEST_SETUPTOOLS = 77  # as pyproject.toml says, which an install without isolation does not heed
COMPILERS = ("c++", "g++", "clang++")

# -E because an isolated build hides the environment that it builds for behind PYTHONPATH
PROBE = """
import importlib.metadata, importlib.util, json
def version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
spec = importlib.util.find_spec("torch")
print(json.dumps({
    "folder": spec and spec.submodule_search_locations[0],
    "torch": version("torch"),
    "torchvision": version("torchvision"),
}))
"""


class NotBuilt(Exception):
    """Why there is no compiled part: the reason, and what to do before trying again."""

    def __init__(self, reason: str, remedy: str | None = None) -> None:
        super().__init__(reason)
        self.remedy = remedy


def target_environment() -> dict[str, str | None]:
    """Where the environment that trgl is installed into has its torch, and which versions."""
    command = [sys.executable, "-E", "-P", "-c", PROBE]
    answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found: dict[str, str | None] = json.loads(answer)
    return found


def requirements() -> list[str]:
    """The dependencies. An installed torch is never moved.

    One that is too old is an error, and one without torchvision beside it is pinned: most
    torchvision releases require one exact torch, and pip would take the newest pair of the two.
    """
    found = target_environment()
    oldest, pin = ".".join(map(str, OLDEST_TORCH)), ""
    if installed := found["torch"]:
        if tuple(int(part) for part in installed.split(".")[:2]) < OLDEST_TORCH:
            sys.exit(
                f"trgl needs torch {oldest} or newer; this environment has torch {installed}. "
                "Upgrade it yourself (pip install --upgrade torch torchvision), then try again."
            )
        if not found["torchvision"]:
            pin = f",=={installed.split('+')[0]}"
    return [
        f"torch>={oldest}{pin}",
        "torchvision>=0.26",
        "triton>=3.6; platform_system == 'Linux'",
        "numpy>=1.26",
        "scikit-learn>=1.4",
        "matplotlib>=3.8",
    ]


def compiler() -> str:
    """The C++ compiler's command: $CXX, or the first of the usual names."""
    chosen = os.environ.get("CXX")
    if chosen:
        if shutil.which(shlex.split(chosen)[0]) is None:
            raise NotBuilt(f"CXX={chosen} names no program", "unset CXX or correct it")
        return chosen
    for name in COMPILERS:
        if shutil.which(name):
            return name
    raise NotBuilt(
        f"no C++ compiler was found (looked for CXX, {', '.join(COMPILERS)})",
        "install a C++ compiler (Debian, Ubuntu: apt install g++; Fedora: dnf install gcc-c++)",
    )


def first_line(command: str) -> str:
    run = subprocess.run(shlex.split(command), capture_output=True, text=True, check=False)
    return (run.stdout or run.stderr).strip().partition("\n")[0]


class BuildOrExplain(build_ext):
    """build_ext that compiles against the installed torch, or notes why it did not."""

    def run(self) -> None:
        package = ROOT / "trgl_kernels" if self.inplace else Path(self.build_lib, "trgl_kernels")
        package.mkdir(parents=True, exist_ok=True)
        facts: dict[str, Any] = {
            "trgl": self.distribution.get_version(),
            "python": sys.version.split()[0],
            "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "reason": None,
        }
        # a library that an earlier build left must not outlive this one's failure
        (package / "_C.so").unlink(missing_ok=True)
        try:
            facts |= self.compile()
        except NotBuilt as error:
            facts |= {"reason": str(error), "remedy": error.remedy}
            # pip relays a build's warnings (older ones with -v), and nothing else that it says
            warnings.warn(
                f"trgl: the compiled engine was not built: {error}. The package works without it, "
                "on its reference in plain PyTorch; `trgl info` says how to get it.",
                stacklevel=1,
            )
        (package / "_C.json").write_text(json.dumps(facts, indent=2) + "\n")

    def compile(self) -> dict[str, Any]:
        """Builds the library and returns the facts; raises NotBuilt."""
        folder = target_environment()["folder"]
        if folder is None:
            raise NotBuilt("torch was not installed yet when trgl was built")
        command = compiler()
        os.environ["CXX"] = command  # one compiler for compiling and for linking
        os.environ.setdefault("MAX_JOBS", str(len(os.sched_getaffinity(0))))
        # ninja installed beside a Python whose environment is not activated
        os.environ["PATH"] += os.pathsep + sysconfig.get_path("scripts")
        sys.path.append(str(Path(folder).parent))
        import torch
        from torch.utils import cpp_extension

        # the order of the sources is the order of linking: sorted, so that builds are repeatable
        sources = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("csrc/**/*.cpp"))
        self.distribution.ext_modules = [
            cpp_extension.CppExtension(
                "trgl_kernels._C",
                sources,
                include_dirs=[str(ROOT / "csrc")],
                extra_compile_args=FLAGS,
                py_limited_api=True,  # uses no Python at all, and so does not link torch_python
            )
        ]
        build = cpp_extension.BuildExtension(self.distribution, no_python_abi_suffix=True)
        build.build_lib, build.inplace = self.build_lib, self.inplace
        # kept between editable builds, so that only what changed compiles; never across torches
        base = ROOT / "build" if self.inplace else Path(self.build_temp)
        build.build_temp = str(base / f"torch-{torch.__version__}")
        try:
            build.ensure_finalized()
            build.run()
        except Exception as error:  # ninja, distutils and the linker each raise their own
            raise NotBuilt(
                f"compiling failed ({error}; compiler: {first_line(f'{command} --version')})",
                "read the compiler's messages (pip's option -v shows them)",
            ) from error
        return {
            "torch": str(torch.__version__),
            "compiler": first_line(f"{command} --version"),
            "flags": FLAGS,
            "schemas": runpy.run_path(str(ROOT / "trgl_kernels" / "extension.py"))["schemas"](),
            "cuda": False,  # CUDA tensors are served by Triton; there are no CUDA sources
            "sources": sources,
        }

    def get_ext_filename(self, fullname: str) -> str:
        return str(Path(*fullname.split("."))) + ".so"


if int(setuptools.__version__.split(".")[0]) < OLDEST_SETUPTOOLS:
    sys.exit(
        f"trgl is built by setuptools {OLDEST_SETUPTOOLS} or newer; this environment has "
        f"{setuptools.__version__}. Upgrade it: {sys.executable} -m pip install -U setuptools"
    )
setup(
    install_requires=requirements(),
    ext_modules=[Extension("trgl_kernels._C", [])],
    cmdclass={"build_ext": BuildOrExplain},
)
