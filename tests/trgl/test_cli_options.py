"""What the commands list and which options they have."""

from __future__ import annotations

import argparse
import json

import pytest

from trgl import recipes
from trgl.cli import main
from trgl.cli.compare import methods, seeds
from trgl.cli.main import build_parser
from trgl.cli.options import chosen_recipe, show
from trgl.recipes.recipe import options as recipe_options
from trgl.recipes.settings import unused


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("train digits-20x1 --epoch 3", "--epochs"),
        ("compare digits-20x1 --sed 0", "--seeds"),
        ("report run --ou page", "--out"),
        ("diagnose run --devise cpu", "--device"),
        ("export run --out file --dept best", "--depth"),
        ("memory digits-20x1 --batches=3", "--batch"),
        ("recipes --jsn", "--json"),
        ("fetch mnist --to place --tracebak", "--traceback"),
        ("info --jsno", "--json"),
    ],
)
def test_an_unknown_option_suggests_the_nearest_that_the_command_has(
    words: str, meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words.split()) == 2
    said = capsys.readouterr().err
    assert said.endswith(f"Did you mean {meant}? See trgl {words.split()[0]} --help.\n")


def test_an_option_without_effect_may_say_its_default() -> None:
    words = "train t10-wide-10-1-cifar100-5000-multilap-k10 --regime parallel --laps 1"
    words += " --epochs-step 0 --optimizer adamw --momentum 0.9 --stem cifar --window 0"
    recipe = chosen_recipe(build_parser(words.split()).parse_args(words.split()))
    assert (recipe.regime, recipe.laps, recipe.momentum) == ("parallel", 1, 0.9)
    assert unused(recipe).keys() >= {"laps", "epochs_step", "momentum", "stem", "window"}
    swin = recipes.find("swin_t-stl10")
    assert "window" not in unused(swin)
    assert "window" not in unused(swin.override({"network": "timm:swin_tiny_patch4_window7_224"}))


def test_recipes_are_listed_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in recipes.names())
    assert main(["recipes", "mnist-20x1"]) == 0
    shown = capsys.readouterr().out
    assert "NeurIPS 2023, Table 13" in shown
    for field in recipe_options():
        assert field.name.replace("_", "-") in shown
    assert main(["recipes", "--json"]) == 0
    assert [entry["name"] for entry in json.loads(capsys.readouterr().out)] == recipes.names()
    assert main(["recipes", "mnist-20x1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tau"] == 0.005


def test_recipes_are_filtered_by_table_and_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "--filter", "table 1"]) == 0
    listed = capsys.readouterr().out
    assert "t1-vgg19-tinyimagenet-full-parallel-k4" in listed
    assert "[56.17 / 57.28 / 58.74]" in listed
    assert "t10-" not in listed
    assert main(["recipes", "--filter", "mnist,-150-", "--json"]) == 0
    (one,) = json.loads(capsys.readouterr().out)
    assert one["name"] == "t13-resnet20x1-32-mnist-150-parallel-k20"
    assert one["published_accuracy"]["transport"]["mean"] == pytest.approx(0.8748)
    assert main(["recipes", "resnet110-stl10"]) == 0
    assert "copied from another paper" in capsys.readouterr().out
    assert main(["recipes", "--filter", "abacus"]) == 2
    assert "no recipe has all of abacus" in capsys.readouterr().err


def test_info_for_people_and_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    assert main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert f"torch        {facts['versions']['torch']}" in text
    for operator, devices in facts["engines"].items():
        for device, entry in devices.items():
            assert f"{operator} on {device}: {entry['engine']}" in text
            assert all(f"not {name}: {reason}" in text for name, reason in entry["why_not"].items())


def test_info_says_what_is_missing_and_how_to_get_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = {"loaded": False, "reason": "no compiler", "remedy": "install one", "build": None}
    facts = {"versions": {"nvcc": None}, "extension": {**missing, "simd": None}, "engines": {}}
    facts["boundary"] = {"release": False, "why_not": "no compiler"}
    monkeypatch.setattr("trgl_kernels.info", lambda: facts)
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    assert "nvcc  not installed" in text
    assert "compiled extension: not loaded, because no compiler\n  remedy: install one" in text


def test_every_field_is_an_option_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "mnist-20x1", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    recipe = recipes.find("mnist-20x1")
    for field in recipe_options():
        flag = "--" + field.name.replace("_", "-")
        assert flag in text
        value = show(getattr(recipe, field.name))
        unit = " " + field.metadata["unit"] if field.metadata["unit"] and value != "nothing" else ""
        assert f"(default: {value}{unit})" in text
    assert main(["train", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "(default: the recipe's)" in text
    assert "(default: the recipe's, in epochs)" in text
    for words in (["--help"], ["compare", "--help"], ["recipes", "--help"], ["info", "--help"]):
        assert main(words) == 0
        assert capsys.readouterr().out.startswith("usage: trgl")


def test_options_of_every_type_reach_the_recipe() -> None:
    words = ["train", "digits-20x1", "--flip", "--no-shared-head", "--mean", "0.5", "--std", "0.25"]
    words += ["--end-to-end-milestones", "3,5", "--block", "post-activation", "--tau", "1e-2"]
    parsed = vars(build_parser(words).parse_args(words))
    assert parsed["field_flip"] is True
    assert parsed["field_shared_head"] is False
    assert parsed["field_mean"] == (0.5,)
    assert parsed["field_end_to_end_milestones"] == (3, 5)
    assert parsed["field_block"] == "post-activation"
    assert parsed["field_tau"] == 0.01
    assert parsed["field_epochs"] is None


def test_seeds_and_methods() -> None:
    assert seeds("0-4") == [0, 1, 2, 3, 4]
    assert seeds("3") == [3]
    assert seeds("0, 5-6,2") == [0, 5, 6, 2]
    assert methods("vanilla,transport") == ["vanilla", "transport"]
    for wrong in ("", "-1", "1-", "1--2", "1.5"):
        with pytest.raises(argparse.ArgumentTypeError):
            seeds(wrong)
