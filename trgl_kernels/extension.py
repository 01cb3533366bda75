"""Loads the compiled part, or remembers why not, and says which engine serves which operator.

The build leaves its facts in _C.json beside the library. They are read and compared with the torch
that runs and with the operators as they are defined now, before anything is loaded: a library built
for another torch or for other operators is never opened (it could end the process), the reference
runs instead, and `info()` names the reason and the remedy.
"""

import ctypes
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import urllib.parse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

DISABLE = "TRGL_KERNELS_DISABLE_EXTENSION"
LIBRARY = Path(__file__).with_name("_C.so")
FACTS = Path(__file__).with_name("_C.json")
SCHEMAS = Path(__file__).with_name("schema")
DEVICES = {"cpu": "CPU", "cuda": "CUDA"}  # their names and dispatch keys


@dataclass(frozen=True)
class ExtensionStatus:
    """Whether the compiled part is in use; if not, why, and what to do about it in one line.

    build: the facts that setup.py noted (torch, python, compiler, flags, time, cuda, schemas,
    sources), or None where no library was built.
    """

    loaded: bool
    reason: str | None
    remedy: str | None
    build: dict[str, Any] | None


def schemas() -> str:
    """A fingerprint of the files that define the operators; setup.py notes it as well."""
    digest = hashlib.sha256()
    for path in sorted(SCHEMAS.glob("*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def _distribution() -> importlib.metadata.Distribution | None:
    try:
        return importlib.metadata.distribution("trgl")
    except importlib.metadata.PackageNotFoundError:
        return None


def _source() -> str:
    """What pip is to install again: the place that trgl was installed from, as PEP 610 notes it."""
    found = _distribution()
    noted = found.read_text("direct_url.json") if found else None
    if noted is None:
        return f"{shlex.quote(str(Path(__file__).parents[1]))}"
    origin = json.loads(noted)
    url = origin["url"]
    if url.startswith("file://"):
        url = urllib.parse.unquote(url.removeprefix("file://"))
    if "vcs_info" in origin:
        url = f"{origin['vcs_info']['vcs']}+{url}@{origin['vcs_info']['commit_id']}"
    editable = "-e " if origin.get("dir_info", {}).get("editable") else ""
    return editable + shlex.quote(url)


def rebuild() -> str:
    """The command that builds the extension for the torch that is installed, and moves nothing."""
    return (
        f"{shlex.quote(sys.executable)} -m pip install --no-build-isolation --no-deps "
        f"--force-reinstall {_source()}"
    )


def _absent(
    reason: str, remedy: str | None = None, build: dict[str, Any] | None = None
) -> ExtensionStatus:
    return ExtensionStatus(False, reason, remedy or rebuild(), build)


@functools.cache
def load() -> ExtensionStatus:
    """Loads the compiled part once; never raises, never prints."""
    if os.environ.get(DISABLE, "") not in ("", "0"):
        return _absent(f"switched off by {DISABLE}", f"unset {DISABLE}")
    try:
        build: dict[str, Any] = json.loads(FACTS.read_text())
        reason, remedy, target = build["reason"], build.get("remedy"), build.get("torch")
    except (OSError, ValueError, TypeError, KeyError):
        return _absent(f"never built for this copy of trgl_kernels ({FACTS.parent})")
    if reason:
        first = f"{remedy}, then: " if remedy else ""
        return _absent(f"not built: {reason}", first + rebuild())
    if target != torch.__version__:
        return _absent(
            f"built for torch {target}, and torch {torch.__version__} is installed",
            build=build,
        )
    if build.get("schemas") != schemas():
        return _absent("built for other definitions of the operators than these", build=build)
    if not LIBRARY.exists():
        return _absent(f"{LIBRARY} is missing", build=build)
    try:
        torch.ops.load_library(str(LIBRARY))
    except (OSError, RuntimeError) as error:
        return _absent(f"could not be loaded: {error}", build=build)
    return ExtensionStatus(True, None, None, build)


@functools.cache
def without_boundary() -> str | None:
    """Why memory cannot be released and counted at module boundaries; None where it can."""
    status = load()
    if not status.loaded:
        return status.reason
    try:
        torch.classes.trgl_boundary.Memory  # noqa: B018
    except RuntimeError:
        return "the compiled part is older than module boundaries"
    return None


def notice() -> str | None:
    """One line for whoever starts a long run without the compiled part; None when it is in use."""
    status = load()
    if status.loaded:
        return None
    return f"compiled engine not in use ({status.reason}). Remedy: {status.remedy}"


_triton_reason: str | None = None


def without_triton(reason: str) -> None:
    """Remembers why the Triton engine could not be imported, for `info()`."""
    global _triton_reason
    _triton_reason = f"Triton could not be imported: {reason}"


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _nvcc() -> str | None:
    """The CUDA compiler's version, None where PATH has none."""
    command = shutil.which("nvcc")
    if command is None:
        return None
    answer = subprocess.run([command, "--version"], capture_output=True, text=True, check=False)
    release = re.search(r"release ([\d.]+)", answer.stdout)
    return release[1] if release else None


def _simd() -> str | None:
    """The instruction set that the compiled CPU kernels chose on this machine."""
    if not load().loaded:
        return None
    level = ctypes.CDLL(str(LIBRARY)).trgl_simd_level
    level.restype = ctypes.c_char_p
    return str(level().decode())


def _operators() -> list[str]:
    """The names of all operators that engines have kernels of, without their namespace."""
    names = torch._C._dispatch_get_all_op_names()
    return sorted(n.removeprefix("trgl::") for n in names if re.match("trgl::[^_]", n))


def _family(operator: str) -> str:
    """The operator that another belongs to: its backward, or its output computed again."""
    return operator.removesuffix("_backward").removesuffix("_apply")


def _registered(operator: str, key: str) -> str | None:
    """The engine whose kernel the dispatcher holds for a dispatch key, None for the default."""
    kernels: str = torch._C._dispatch_dump(f"trgl::{operator}")
    found = re.search(rf"^{key}: registered at (.*?):\d+", kernels, re.MULTILINE)
    if found is None:
        return None
    return "triton" if found[1].endswith(".py") else "compiled"


def _engine(operator: str, device: str) -> dict[str, Any]:
    """Which engine serves an operator on a device, and why each other engine does not."""
    key = DEVICES[device]
    engines = {_registered(name, key) for name in _operators() if _family(name) == operator}
    engine = (engines.pop() if len(engines) == 1 else None) or "reference"
    why_not = {}
    if engine != "compiled":
        why_not["compiled"] = (
            "the compiled kernels are for CPU tensors; on CUDA tensors Triton's run"
            if device == "cuda"
            else load().reason or "the library has no kernel of this operator"
        )
    if engine != "triton":
        why_not["triton"] = (
            "the Triton kernels are for CUDA tensors"
            if device == "cpu"
            else _triton_reason or "its kernels are not registered for this operator"
        )
    if engine != "reference":
        why_not["reference"] = (
            "on CUDA it serves float64, empty tensors and sizes of at least 2**30 only"
            if device == "cuda"
            else "it runs only where no engine has a kernel"
        )
    return {"engine": engine, "why_not": why_not}


def info() -> dict[str, Any]:
    """What is installed, how the compiled part was built, and which engine serves which operator.

    Returns a dictionary that json.dumps accepts:
    versions: trgl, torch, triton, torchvision, python, cuda (of torch), nvcc; None where absent.
    extension: loaded, reason and remedy (None when loaded), build (None without a library), simd.
    engines: operator -> device -> {"engine": name, "why_not": {other engine: reason}}, where the
        engine is the one that the dispatcher calls for tensors of that device.
    boundary: whether tensors can be released at module boundaries, and why not: without the
        compiled part, what reference counting frees is freed, and the rest is only reported.
    """
    status = load()
    names = [name for name in _operators() if _family(name) == name]
    return {
        "versions": {
            "trgl": _version("trgl"),
            "torch": str(torch.__version__),
            "triton": _version("triton"),
            "torchvision": _version("torchvision"),
            "python": platform.python_version(),
            "cuda": torch.version.cuda,
            "nvcc": _nvcc(),
        },
        "extension": {
            "loaded": status.loaded,
            "reason": status.reason,
            "remedy": status.remedy,
            "build": status.build,
            "simd": _simd(),
        },
        "engines": {name: {device: _engine(name, device) for device in DEVICES} for name in names},
        "boundary": {"release": without_boundary() is None, "why_not": without_boundary()},
    }
