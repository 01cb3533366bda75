"""What the Python API calls its arguments is said in options on the command line."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from trgl.cli import main
from trgl.cli.main import build_parser
from trgl.cli.spelling import as_typed
from trgl.recipes.recipe import options as fields


def options(*words: str) -> argparse.Namespace:
    return build_parser(words).parse_args(words)


@pytest.mark.parametrize("command", ["train", "compare"])
def test_every_field_of_a_recipe_is_an_option(command: str) -> None:
    given = options(command, "digits-20x1")
    for field in fields():
        flag = "--" + field.name.replace("_", "-")
        assert as_typed(f"Use {field.name}='one', please.", given) == f"Use {flag} one, please."
        bare = flag if "_" in field.name else field.name
        assert as_typed(f"lower {field.name}.", given) == f"lower {bare}."


@pytest.mark.parametrize(
    ("command", "said", "typed"),
    [
        ("train", "Use head='pool-linear'.", "Use --head pool-linear."),
        ("train", "raise tau, or clip_norm; see", "raise tau, or --clip-norm; see"),
        ("train", "with transport=None.", "with --method vanilla."),
        ("compare", "with transport=None.", "with --methods vanilla."),
        ("train", "(head='mlp') or encoder=None", "(--head mlp) or --encoder stem"),
        ("train", "split it off with encoder='stem'", "split it off with --encoder trained"),
        ("train", "or cache=None.", "or no --cache."),
        ("train", "channels_last=True, flip=False", "--channels-last, --no-flip"),
        ("train", "Use laps=1 or regime='multi-lap'.", "Use --laps 1 or --regime multi-lap."),
        ("train", "split(shared_head=True)", "split(shared_head=True)"),
        ("train", "SGD(p, lr=0.1) with inplace=False", "SGD(p, lr=0.1) with inplace=False"),
        ("train", "/x/batch_size/y, batch_size.py", "/x/batch_size/y, batch_size.py"),
        ("train", "name 'batch_size' is", "name 'batch_size' is"),
        ("train", "Give --batch-size 2, my_batch_size", "Give --batch-size 2, my_batch_size"),
        ("memory", "Check input_shape, head='mlp'.", "Check --input-shape, --head mlp."),
        ("memory", "with energy='displacement'.", "with energy='displacement'."),
        ("recipes", "with energy='displacement'.", "with energy='displacement'."),
    ],
)
def test_words(command: str, said: str, typed: str) -> None:
    assert as_typed(said, options(command, "digits-20x1")) == typed


def test_before_the_options_are_known() -> None:
    assert as_typed("batch_size, head='mlp'", argparse.Namespace()) == "batch_size, head='mlp'"


TINY = ["digits-20x1", "--modules", "2", "--train-size", "20", "--epochs", "2"]
LARGE = [*TINY, "--filters", "4", "--batch-size", "4", "--learning-rate", "1e30"]
PLAIN = """
from torch import nn

def network(input_shape, num_classes):
    return nn.Sequential(*[nn.Conv2d(c, 2, 3, padding=1) for c in (1, 2, 2)])
"""


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["train", *TINY, "--head-windows", "1,2,3"], 2, "--head-windows are sides"),
        (["train", *LARGE], 1, "bound the gradients with --clip-norm or, with"),
        (
            ["compare", *LARGE, "--seeds", "0", "--methods", "vanilla", "--jobs", "1"],
            1,
            "bound the gradients with --clip-norm or, with",
        ),
        (
            ["train", *TINY, "--network", "own.py:network", "--encoder", "stem"],
            2,
            "Split with --energy displacement, ",
        ),
    ],
)
def test_errors(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(PLAIN)
    assert main([*words, "--quiet", "--out", "run"]) == code
    last = capsys.readouterr().err.splitlines()[-1]
    assert message in last
    assert "clip_norm" not in last
    assert "transport=None" not in last
