"""The compiled part is used only where it fits; everywhere else the reference runs and says why."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import trgl_kernels
from trgl_kernels import extension

ROOT = Path(__file__).parents[2]
FITTING = {"torch": str(torch.__version__), "schemas": extension.schemas(), "reason": None}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder in the place of the package's, holding a library that cannot be loaded."""
    monkeypatch.delenv(extension.DISABLE, raising=False)
    monkeypatch.setattr(extension, "FACTS", tmp_path / "_C.json")
    monkeypatch.setattr(extension, "LIBRARY", tmp_path / "_C.so")
    (tmp_path / "_C.so").write_bytes(b"no library")
    return tmp_path


def load_from(place, facts):
    (place / "_C.json").write_text(json.dumps(facts))
    return extension.load.__wrapped__()


def test_a_library_built_for_another_torch_is_not_opened(place):
    status = load_from(place, {"torch": "1.0.0+cu1", "reason": None})
    assert not status.loaded
    # opening it would have failed: "could not be loaded"
    assert status.reason == f"built for torch 1.0.0+cu1, and torch {torch.__version__} is installed"
    assert "--no-build-isolation --no-deps" in status.remedy
    assert status.build["torch"] == "1.0.0+cu1"


def test_a_library_built_for_other_operators_is_not_opened(place, tmp_path, monkeypatch):
    status = load_from(place, FITTING | {"schemas": "of an older version"})
    assert status.reason == "built for other definitions of the operators than these"
    assert "--no-build-isolation --no-deps" in status.remedy
    changed = tmp_path / "schema"
    shutil.copytree(extension.SCHEMAS, changed)
    (changed / "another.py").write_text("# another operator\n")
    monkeypatch.setattr(extension, "SCHEMAS", changed)
    assert load_from(place, FITTING).reason.startswith("built for other definitions")


@pytest.mark.parametrize("content", ["{}", "null", "[]", '{"reason": null}', "3"])
def test_facts_that_are_none_do_not_stop_the_import(content, place):
    (place / "_C.json").write_text(content)
    status = extension.load.__wrapped__()
    assert not status.loaded
    assert status.reason
    assert status.remedy


def test_a_library_that_does_not_load(place):
    status = load_from(place, FITTING)
    assert not status.loaded
    assert status.reason.startswith("could not be loaded: ")
    assert str(place / "_C.so") in status.reason
    assert sys.executable in status.remedy


def test_a_missing_library(place):
    (place / "_C.so").unlink()
    status = load_from(place, FITTING)
    assert not status.loaded
    assert status.reason == f"{place / '_C.so'} is missing"


@pytest.mark.parametrize("facts", [None, "", "{half"], ids=["absent", "empty", "broken"])
def test_missing_facts(place, facts):
    if facts is not None:
        (place / "_C.json").write_text(facts)
    status = extension.load.__wrapped__()
    assert not status.loaded
    assert status.reason.startswith("never built")
    assert status.build is None


def test_the_reason_of_a_build_that_failed(place):
    status = load_from(place, {"reason": "no C++ compiler was found", "remedy": "install one"})
    assert not status.loaded
    assert status.reason == "not built: no C++ compiler was found"
    assert status.remedy.startswith(f"install one, then: {sys.executable} -m pip install ")
    assert status.build is None


@pytest.mark.parametrize(("value", "disabled"), [("1", True), ("0", False), ("", False)])
def test_the_environment_switches_it_off(place, monkeypatch, value, disabled):
    monkeypatch.setenv(extension.DISABLE, value)
    status = load_from(place, FITTING)
    assert not status.loaded
    assert (status.reason == f"switched off by {extension.DISABLE}") == disabled
    assert (status.remedy == f"unset {extension.DISABLE}") == disabled


@pytest.mark.parametrize(
    ("origin", "source"),
    [
        ({"url": "file:///a b/trgl", "dir_info": {"editable": True}}, "-e '/a b/trgl'"),
        ({"url": "file:///a/trgl", "dir_info": {}}, "/a/trgl"),
        (
            {"url": "https://x.org/trgl", "vcs_info": {"vcs": "git", "commit_id": "c0"}},
            "git+https://x.org/trgl@c0",
        ),
        (None, str(ROOT)),
    ],
    ids=["editable", "folder", "git", "unknown"],
)
def test_the_remedy_names_where_trgl_came_from(monkeypatch, origin, source):
    class Distribution:
        def read_text(self, name):
            return json.dumps(origin) if origin else None

    monkeypatch.setattr(extension, "_distribution", Distribution)
    assert extension.rebuild().endswith(f"--force-reinstall {source}")


def test_info_describes_this_process(engine):
    info = json.loads(json.dumps(trgl_kernels.info()))
    assert info["versions"]["torch"] == torch.__version__
    assert set(info["engines"]) == {
        "batch_norm_relu",
        "batch_norm_residual_energy",
        "displacement_energy",
        "residual_energy",
        "residual_energy_layer_norm",
    }
    for devices in info["engines"].values():
        assert devices["cpu"]["engine"] == engine
        for found in devices.values():
            engines = {"compiled", "triton", "reference"}
            assert set(found["why_not"]) == engines - {found["engine"]}
            assert all(found["why_not"].values())
    compiled = info["extension"]
    if engine == "compiled":
        sources = {str(path.relative_to(ROOT)) for path in ROOT.glob("csrc/**/*.cpp")}
        assert set(compiled["build"]["sources"]) == sources
        assert compiled["build"]["torch"] == torch.__version__
        assert compiled["simd"] in {"AVX512", "AVX2", "baseline"}
        assert (compiled["loaded"], compiled["reason"], compiled["remedy"]) == (True, None, None)
        assert extension.notice() is None
    else:
        assert not compiled["loaded"]
        assert compiled["simd"] is None
        assert f"unset {extension.DISABLE}" in extension.notice()


SCRIPT = """
import json, torch, trgl_kernels
assert not torch.cuda.is_initialized()
x, r = torch.ones(2, 3), torch.full((2, 3), 2.0, requires_grad=True)
y, energy = trgl_kernels.residual_energy(x, r)
(y.sum() + energy.sum()).backward()
print(json.dumps([y.tolist(), energy.tolist(), r.grad.tolist(), trgl_kernels.info()]))
"""


def test_a_package_whose_torch_was_exchanged_imports_silently_and_works(tmp_path):
    shutil.copytree(
        ROOT / "trgl_kernels",
        tmp_path / "trgl_kernels",
        ignore=shutil.ignore_patterns("_C.*", "__pycache__"),
    )
    (tmp_path / "trgl_kernels" / "_C.so").write_bytes(b"no library")
    (tmp_path / "trgl_kernels" / "_C.json").write_text('{"torch": "1.0.0", "reason": null}')
    environment = {name: value for name, value in os.environ.items() if name != extension.DISABLE}
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT],
        cwd=tmp_path,
        env=environment | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert (run.returncode, run.stderr) == (0, "")
    y, energy, gradient, info = json.loads(run.stdout)
    assert y == [[3.0] * 3] * 2
    assert energy == [12.0] * 2
    assert gradient == [[5.0] * 3] * 2
    assert info["extension"]["reason"].startswith("built for torch 1.0.0")
    assert info["engines"]["residual_energy"]["cpu"]["engine"] == "reference"
