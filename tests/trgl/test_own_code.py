"""FILE.py:NAME: loading what a user wrote, and what is said where that fails."""

import sys
from pathlib import Path

import pytest
from torch import nn

from trgl import models, own_code, recipes
from trgl.cli.main import main
from trgl.zoo import subject

GOOD = """
import dataclasses
from torch import nn
import trgl
from neighbour import WIDTH

count = 0

@dataclasses.dataclass
class Settings:
    width: int = WIDTH

def network(input_shape, num_classes):
    return nn.Sequential(nn.Conv2d(input_shape[0], WIDTH, 3), nn.Conv2d(WIDTH, num_classes, 1))

def none(input_shape, num_classes):
    return 3

def recipe():
    return trgl.recipes.find("digits-20x1")

constant = trgl.recipes.find("mnist-20x1")
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "neighbour.py").write_text("WIDTH = 5\n")
    path = tmp_path / "mine.py"
    path.write_text(GOOD)
    yield path
    sys.modules.pop("neighbour", None)


def test_a_file_runs_once_and_again_when_it_has_changed(file: Path) -> None:
    before = list(sys.path)
    network = own_code.load(f"{file}:network")
    assert own_code.load(f"{file}:network") is network
    assert own_code.load(f"{file}:Settings")().width == 5
    assert sys.path == before
    file.write_text(GOOD.replace("count = 0", "count = 1"))
    assert own_code.load(f"{file}:count") == 1
    assert own_code.load(f"{file}:network") is not network


def test_networks_and_recipes(file: Path) -> None:
    model = models.build(f"{file}:network", (2, 8, 8), 3)
    assert isinstance(model, nn.Sequential)
    assert model[0].weight.shape == (5, 2, 3, 3)
    assert recipes.find(f"{file}:recipe") == recipes.find("digits-20x1")
    assert recipes.find(f"{file}:constant") == recipes.find("mnist-20x1")
    assert recipes.is_own(f"{file}:recipe")
    assert not recipes.is_own(f"{file}:network")
    assert not recipes.is_own("digits-20x1")
    recipe = recipes.find("digits-20x1").override({"network": f"{file}:network"})
    assert recipe.encoder == "random"  # a network of one's own may have a stem


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("mine.py:nettwork", "defines no 'nettwork'. Did you mean network?"),
        ("none.py:network", "none.py cannot be read: No such file"),
        (".py:network", "form FILE.py:NAME"),
        ("mine.py", "form FILE.py:NAME"),
        ("mine.py:two words", "form FILE.py:NAME"),
    ],
)
def test_what_is_not_there(file: Path, monkeypatch, reference: str, message: str) -> None:
    monkeypatch.chdir(file.parent)
    with pytest.raises(ValueError, match=message):
        own_code.load(reference)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("x = 1\ny = x / 0\n", "line 2 fails with ZeroDivisionError"),
        ("def f(:\n", "line 1 fails with SyntaxError"),
        ("\nimport no_such_thing\n", "line 2 fails with ModuleNotFoundError"),
    ],
)
def test_a_file_that_fails_names_its_line(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "broken.py").write_text(content)
    loaded = set(sys.modules)
    with pytest.raises(ValueError, match=message):
        own_code.load(f"{tmp_path / 'broken.py'}:x")
    assert not any("broken" in name for name in set(sys.modules) - loaded)


BROKEN = """
import torch
import trgl
from torch import nn

class Late(nn.Conv2d):
    def forward(self, x):
        if type(x) is torch.Tensor and self.training:
            return helper(x)
        return super().forward(x)

def helper(x):
    return lost + x

def network(input_shape, num_classes):
    return nn.Sequential(nn.Conv2d(1, helper(4), 3))

def torchs(input_shape, num_classes):
    return nn.Sequential(nn.Conv2d(4, 4, groups=3, kernel_size=3))

def shapes(input_shape, num_classes):
    layers = [nn.Conv2d(c, 2, 3, padding=1) for c in (1, 2, 2)]
    return nn.Sequential(layers[0], Wrong(), *layers[1:])

class Wrong(nn.Module):
    def forward(self, x):
        return lost + x

def late(input_shape, num_classes):
    return nn.Sequential(*[Late(c, 2, 3, padding=1) for c in (1, 2, 2, 2)])

def recipe():
    return trgl.recipes.find("digits-20x1").override({"tua": 3})
"""


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (
            ["train", "digits-20x1", "--network", "{}:network"],
            2,
            "line 13 fails with NameError: na",
        ),
        (["memory", "{}:network"], 2, "line 13 fails with NameError: name 'lost' is not defined."),
        (["memory", "{}:torchs"], 2, "line 19 fails with ValueError: in_channels must be divis"),
        (["train", "digits-20x1", "--network", "{}:shapes"], 2, "is not defined ({}, line 27). C"),
        (
            ["train", "{}:recipe"],
            2,
            "line 33 fails with ValueError: a recipe has no field 'tua'. D",
        ),
        (["train", "digits-20x1", "--network", "{}:late"], 1, "line 13 fails with NameError: name"),
    ],
)
def test_an_error_in_what_a_file_defines_names_its_line(
    tmp_path: Path, capsys, words: list[str], code: int, message: str
) -> None:
    path = tmp_path / "broken.py"
    path.write_text(BROKEN)
    words = [word.format(path) for word in words]
    if words[0] == "train":
        words += ["--encoder", "stem", "--energy", "displacement", "--modules", "2"]
        words += ["--train-size", "20", "--out", str(tmp_path / "run")]
    assert main(words) == code
    said = " ".join(capsys.readouterr().err.split())
    assert message.format(path) in said
    if "fails with" in message:
        assert f"{path}, line" in said


def test_an_error_of_a_run_in_a_comparison_names_its_line(tmp_path: Path, capsys) -> None:
    path = tmp_path / "broken.py"
    path.write_text(BROKEN)
    words = ["--encoder", "stem", "--energy", "displacement", "--modules", "2", "--train-size"]
    words += ["20", "--seeds", "0", "--methods", "vanilla", "--out", str(tmp_path / "compared")]
    assert main(["compare", "digits-20x1", "--network", f"{path}:late", *words]) == 1
    said = capsys.readouterr().err
    assert f"1 of 1 runs: {path}, line 13 fails with NameError: name 'lost'" in said


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("recipe", "does not take these: too many positional arguments"),
        ("count", "is a int; write a function"),
        ("none", "must return an nn.Module, but it returned int"),
    ],
)
def test_what_makes_no_network(file: Path, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        models.build(f"{file}:{name}", (1, 8, 8), 3)


@pytest.mark.parametrize("name", ["network", "count", "Settings"])
def test_what_is_no_recipe(file: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"is none. For a network write trgl train RECIPE"):
        recipes.find(f"{file}:{name}")


@pytest.mark.parametrize(
    "words",
    [
        ["train", "{}:network"],
        ["train", "{}:missing"],
        ["train", "digits-20x1", "--network", "{}:missing", "--encoder", "stem"],
        ["memory", "{}:missing"],
        ["memory", "no.py:network"],
        ["recipes", "{}:missing"],
    ],
)
def test_the_command_line_says_so(file: Path, tmp_path: Path, capsys, words: list[str]) -> None:
    words = [word.format(file) for word in words]
    if words[0] == "train":
        words += ["--out", str(tmp_path / "run")]
    assert main(words) == 2
    assert "trgl: " in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_networks_without_residual_blocks_are_penalized_by_their_displacement(
    file: Path, capsys
) -> None:
    file.write_text(
        GOOD.replace(
            "return nn.Sequential(", "return nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), "
        )
    )
    assert subject(f"{file}:network", (1, 8, 8), 3).options["energy"] == "displacement"
    file.write_text(
        GOOD.replace(
            "return nn.Sequential(", "return nn.Sequential(RegularizedResidual(nn.ReLU()), "
        )
        + "from trgl_kernels import RegularizedResidual\n"
    )
    assert "energy" not in subject(f"{file}:network", (1, 8, 8), 3).options
    assert subject(f"{file}:constant").modules == (20,)
