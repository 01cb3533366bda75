"""The page on networks of one's own: its file as a script, and its commands as they stand."""

import hashlib
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from trgl.cli.main import main

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the page's file."""
    source = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[0]
    assert source.startswith('"""gated.py')
    (tmp_path / "gated.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def commands() -> list[list[str]]:
    (lines,) = re.findall(r"```console\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return [shlex.split(line) for line in lines.splitlines()]


def test_the_file_is_a_script(folder: Path) -> None:
    command = [sys.executable, "gated.py"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert set(json.loads(re.sub(r"(\d+):", r'"\1":', done.stdout))) == {"1", "2", "3"}


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_the_commands_work(
    folder: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    program, *words = command
    assert program == "trgl"
    if words[0] == "train":
        words += ["--epochs", "2", "--evaluate-every", "2", "--out", str(folder / "run")]
        words += ["--threads", "1"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    if words[0] == "train":
        config = json.loads((folder / "run" / "config.json").read_text())
        file = folder / "gated.py"
        assert config["recipe"]["network"] == f"{file}:network"  # from any directory
        assert config["own_code_sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
        assert (
            len(json.loads((folder / "run" / "summary.json").read_text())["accuracy"]["by_depth"])
            == 3
        )
    elif words[0] == "memory":
        assert "recompute" in printed
    else:
        assert "gated-digits" in printed
        assert "  mine\n" in printed
