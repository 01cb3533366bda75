"""`trgl memory`: its table, its file, and what it refuses."""

import dataclasses
import json
import re

import pytest

from trgl import recipes
from trgl.cli import main
from trgl.memory_table import METHODS, methods_for, network_of
from trgl.zoo import subject

SMALL = ["memory", "resnet18", "--input-shape", "3x32x32", "--batch", "4", "--modules", "2"]


def test_prints_a_row_per_method_and_writes_everything(capsys, tmp_path) -> None:
    path = tmp_path / "memory.json"
    assert main([*SMALL, "--per-module", "--fit", "300MiB", "--json", str(path)]) == 0
    out = capsys.readouterr().out
    for method in ("end-to-end", "checkpointed", "vanilla", "recompute-heads", "balanced"):
        assert f" {method} " in out
    assert out.count("module 2, ") == 5
    written = json.loads(path.read_text())
    rows = {row["method"]: row for row in written["rows"]}
    assert written["batch"] == 4
    assert written["fit"] == 300 * 2**20

    def heaviest(method: str) -> int:
        return max(one["total"] for one in rows[method]["saved"])

    assert heaviest("regularized") == heaviest("vanilla") > heaviest("recompute")
    assert heaviest("recompute") >= heaviest("balanced")
    assert heaviest("end-to-end") > heaviest("checkpointed")
    assert rows["recompute"]["fits"] > rows["end-to-end"]["fits"] > 4
    assert rows["recompute"]["measured"] == []
    assert [path] == list(tmp_path.iterdir())


def test_measures_beside_what_it_predicts(capsys) -> None:
    assert main([*SMALL, "--methods", "recompute", "--measure", "--per-module"]) == 0
    out = capsys.readouterr().out
    line = next(s for s in out.splitlines() if " recompute " in s)
    _, _, _, _, peak, _, measured, scratch, process = line.split()
    assert float(measured) == pytest.approx(float(peak), rel=0.03)
    assert float(scratch) >= float(measured)
    assert float(process) > float(scratch)
    modules = re.findall(r"module [12], .* peak ([\d.]+), measured ([\d.]+)", out)
    assert len(modules) == 3  # the one of end-to-end training too
    for predicted, found in modules:
        assert float(found) == pytest.approx(float(predicted), rel=0.03)
    assert "reference" not in out


def test_says_that_the_reference_holds_more(capsys, monkeypatch) -> None:
    monkeypatch.setattr("trgl.cli.memory.notice", lambda: "compiled engine not in use (no library)")
    assert main([*SMALL, "--methods", "vanilla"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert "reference" in last
    assert "no library" in last


def test_knows_recipes(capsys) -> None:
    arguments = ["memory", "digits-20x1", "--input-shape", "1x8x8", "--methods", "recompute"]
    assert main(arguments) == 0
    assert " 20  recompute " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["memory", "resnet19"], "Did you mean resnet1"),
        (["memory", "resnet18", "--batch", "0"], "a whole number from 1 on"),
        (["memory", "resnet18", "--input-shape", "32"], "like 3x96x96"),
        (["memory", "resnet18", "--modules", "2,x"], "a whole number from 1 on"),
        (["memory", "resnet18", "--modules", "2,4,2"], "numbers of modules, each once"),
        (["memory", "resnet18", "--modules", "9"], "Use --modules 8 or fewer"),
        (["memory", "resnet18", "--fit", "8 parsecs"], "like 8GiB or 500MiB"),
        (["memory", "resnet18", "--fit", "0GiB"], "at least one byte"),
        (["memory", "resnet18", "--fit", "100"], "with its unit"),
        (["memory", "resnet18", "--batch", "1"], "use 2 images or more, or heads without BN"),
        (["memory", "resnet18", "--methods", "magic"], "some of end-to-end"),
        (["memory", "vgg11", "--modules", "4"], "of 4 modules the number 1 has none"),
        (["memory", "vgg11", "--methods", "checkpointed"], "the model has none that is known"),
        (["memory", "resnet18", "--json", "/nowhere/file.json"], "there is no directory"),
        (["memory", "resnet18", "--device", "quantum"], "--device must be cpu"),
    ],
)
def test_wrong_input_is_told_in_one_paragraph(arguments, message, capsys) -> None:
    assert main([*arguments, *(["--methods", "recompute"] * ("--methods" not in arguments))]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_too_many_modules_are_found_before_the_table(capsys) -> None:
    assert main(["memory", "resnet18", "--modules", "2,9"]) == 2
    assert capsys.readouterr().out == ""


def test_methods_that_say_nothing_of_a_model_are_left_out() -> None:
    assert "checkpointed" not in methods_for(subject("vgg11"))
    assert methods_for(subject("densenet121")) == ("end-to-end", "vanilla")
    assert methods_for(subject("resnet18")) == tuple(METHODS)


def test_what_fits_nowhere_is_none(capsys) -> None:
    words = ["memory", "digits-20x1", "--methods", "end-to-end", "--fit", "1kB", "--batch", "2"]
    assert main(words) == 0
    assert capsys.readouterr().out.splitlines()[2].split()[-1] == "none"


def test_a_recipe_says_which_heads_run_again() -> None:
    chosen = dataclasses.replace(subject("digits-20x1"), recompute_heads=2)
    expected = {"recompute": 0, "recompute-heads": 2, "balanced": 2}
    for method, count in expected.items():
        network = network_of(chosen, chosen.build(), method, 4)
        assert [module.recompute_head for module in network] == [k < count for k in range(4)]
    chosen = dataclasses.replace(chosen, recompute_heads=0)
    network = network_of(chosen, chosen.build(), "recompute-heads", 4)
    assert all(module.recompute_head for module in network)


def test_a_recipe_brings_its_images_classes_and_batch() -> None:
    chosen = subject("digits-20x1")
    assert (chosen.shape, chosen.classes, chosen.batch) == ((1, 8, 8), 10, 50)
    assert subject("digits-20x1", (1, 16, 16), 7).shape == (1, 16, 16)
    assert subject("resnet18").shape == (3, 32, 32)


def test_a_batch_has_no_more_images_than_there_are() -> None:
    recipe = recipes.find("digits-20x1")
    assert (recipe.batch_size, recipe.train_size, recipe.largest_batch) == (128, 50, 50)
    assert recipe.override({"train_size": 0}).largest_batch == 128  # all that there are
    few = recipe.override({"train_size": 150, "validation_size": 50})
    assert few.largest_batch == 100
    several = recipe.override({"train_size": 500, "validation_size": 50})
    assert several.largest_batch == 128


def test_images_of_folders_need_a_shape_and_a_number_of_classes(tmp_path, capsys) -> None:
    own = tmp_path / "own.py"
    own.write_text(
        "from trgl import recipes\n"
        "folders = recipes.find('cifar10-resnet18-k4').override({'dataset': 'image-folder'})\n"
    )
    words = ["memory", f"{own}:folders", "--methods", "vanilla", "--batch", "2"]
    for given in ([], ["--classes", "5"], ["--input-shape", "3x32x32"]):
        assert main([*words, *given]) == 2
        assert "give --input-shape, such as 3x64x64, and --classes" in capsys.readouterr().err
    assert main([*words, "--input-shape", "3x32x32", "--classes", "5"]) == 0
    assert "  4  vanilla" in capsys.readouterr().out
