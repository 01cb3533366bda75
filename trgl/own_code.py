"""What a user wrote in a file of their own: FILE.py:NAME.

Loading such a file runs it, with all rights of the process, as `python FILE.py` would.
"""

import contextlib
import hashlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from .near import meant

_KEY = "trgl_own_"  # in front of the names of loaded modules
_REFERENCE = re.compile(r"(.+\.py):([A-Za-z_]\w*)")


def is_reference(text: str) -> bool:
    """Whether a name has the form FILE.py:NAME."""
    return _REFERENCE.fullmatch(text) is not None


def check_named(text: str) -> None:
    """Holds that a name is not that of a file alone, without what it defines.

    Raises:
        ValueError: it is.
    """
    if text.endswith(".py"):
        raise ValueError(
            f":NAME is missing behind {text}: what a file of your own defines is FILE.py:NAME, "
            f"such as {text}:network."
        )


def absolute(reference: str) -> str:
    """The same reference from any working directory; another name as it is."""
    match = _REFERENCE.fullmatch(reference)
    return reference if match is None else f"{Path(match[1]).expanduser().resolve()}:{match[2]}"


def digest(reference: str) -> str | None:
    """SHA-256 of the file that a reference names, in hexadecimal; None for another name."""
    match = _REFERENCE.fullmatch(reference)
    if match is None:
        return None
    return hashlib.sha256(Path(match[1]).expanduser().read_bytes()).hexdigest()


def load(reference: str) -> Any:
    """What a file defines under a name. The file is run the first time, and when it has changed.

    While it runs, its folder is where it imports from first, as for a script.

    Args:
        reference: FILE.py:NAME; the file is looked for in the working directory.

    Raises:
        ValueError: there is no such file, it fails, or it defines no such name.
    """
    match = _REFERENCE.fullmatch(reference)
    if match is None:
        raise ValueError(f"a reference has the form FILE.py:NAME, received {reference!r}.")
    path, name = Path(match[1]).expanduser().resolve(), match[2]
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(
            f"{match[1]} cannot be read: {error.strerror}. Give the path of a Python file."
        ) from None
    module = _run(path, content)
    if not hasattr(module, name):
        raise ValueError(f"{match[1]} defines no {name!r}.{meant(name, vars(module), most=1)}")
    return getattr(module, name)


@contextlib.contextmanager
def called(reference: str) -> Iterator[None]:
    """What a file defines is called here: an error becomes one that names its line in the file.

    Args:
        reference: FILE.py:NAME of what is called.

    Raises:
        ValueError: in the place of any other error.
    """
    try:
        yield
    except Exception as error:
        path = Path(reference.rpartition(":")[0]).expanduser().resolve()
        raise ValueError(f"{_failure(error, path)}.") from error


def told(error: Exception) -> str:
    """What to tell about an error: its kind, its text, and its line where a loaded file has it."""
    where = place(error)
    return _named(error) if where is None else f"{where} fails with {_named(error)}"


def place(error: BaseException) -> str | None:
    """FILE, line N: the innermost line of a loaded file that had a part in an error; None: none."""
    loaded = {
        getattr(module, "__file__", None)
        for key, module in list(sys.modules.items())
        if key.startswith(_KEY)
    }
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename in loaded:
            return f"{frame.filename}, line {frame.lineno}"
    return None


def _failure(error: BaseException, path: Path) -> str:
    """The file, the innermost of its lines that had a part in an error, and the error."""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    if isinstance(error, SyntaxError) and error.filename == str(path):
        lines.append(error.lineno)
    where = f", line {lines[-1]}" if lines else ""
    return f"{path}{where} fails with {_named(error)}"


def _named(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".rstrip(": .")


def _run(path: Path, content: bytes) -> ModuleType:
    digest = hashlib.sha256(str(path).encode() + b"\0" + content).hexdigest()[:16]
    key = f"{_KEY}{path.stem}_{digest}"
    if key in sys.modules:
        return sys.modules[key]
    spec = importlib.util.spec_from_file_location(key, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[key] = module  # while it runs, for what looks itself up there, as dataclasses do
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[key]
        if not isinstance(error, Exception):
            raise
        raise ValueError(f"{_failure(error, path)}. Run it by itself: python {path}") from error
    finally:
        sys.path.remove(str(path.parent))
    return module
