"""Options made from the fields of a recipe, and those that every run has."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from trgl import own_code, recipes
from trgl.data import ImageData, ImageFiles, Readers, UnreadableImageError, load
from trgl.events import check_installed
from trgl.reasons import reason_of
from trgl.recipes import Recipe
from trgl.recipes.recipe import options as recipe_options
from trgl.recipes.settings import ignored_by, unused

_LARGEST_SEED = 2**63 - 1
_METAVARS = {"int": "N", "str": "NAME"}
_GROUPS = {
    "dataset": "data",
    "network": "network",
    "regime": "training",
    "tau": "transport penalty",
    "evaluate_every": "running",
}


def add_recipe_options(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """Add the recipe's name and one option per field.

    Args:
        parser: of a command.
        arguments: those of the process; a known recipe's name in them puts its values into the
            help texts.
    """
    parser.add_argument(
        "recipe",
        metavar="RECIPE",
        nargs="?",
        help="name or alias of a recipe (trgl recipes lists them), or FILE.py:NAME of your own, "
        "which is run; its values are the defaults of the options",
    )
    named = next((w for w in arguments if w in recipes.NAMES or w in recipes.ALIASES), None)
    recipe = recipes.find(named) if named else None
    group: Any = parser
    for field in recipe_options():
        if field.name in _GROUPS:
            group = parser.add_argument_group(_GROUPS[field.name])
        _add_field(group, field, recipe)


def _add_field(group: Any, field: dataclasses.Field[Any], recipe: Recipe | None) -> None:
    metadata = field.metadata
    kind = str(field.type)
    unit = metadata["unit"]
    default = "the recipe's" if recipe is None else show(getattr(recipe, field.name))
    if recipe is not None and unit and default != "nothing":
        default += f" {unit}"
    elif unit:
        default += f", in {unit}"
    help_text = f"{metadata['help']} (default: {default})"
    flag = _flag(field.name)
    keywords: dict[str, Any] = {
        "dest": f"field_{field.name}",
        "default": None,
        "help": help_text.replace("%", "%%"),
    }
    if kind == "bool":
        group.add_argument(flag, action=argparse.BooleanOptionalAction, **keywords)
        return
    if metadata["choices"]:
        keywords |= {"choices": metadata["choices"], "metavar": "|".join(metadata["choices"])}
    else:
        keywords |= {"type": _reader(kind), "metavar": _METAVARS.get(kind, "X")}
        if kind.startswith("tuple"):
            keywords["metavar"] = "N,N,..." if "int" in kind else "X,X,..."
    group.add_argument(flag, **keywords)


def show(value: Any) -> str:
    """A field's value as one would type it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (tuple, list)):
        return ",".join(map(show, value)) or "nothing"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _reader(kind: str) -> Callable[[str], Any]:
    if kind == "str":
        return str
    item = int if "int" in kind else float
    words = "a whole number" if item is int else "a number"

    def read(text: str) -> Any:
        try:
            if not kind.startswith("tuple"):
                return item(text)
            return tuple(item(part) for part in text.split(",") if part.strip())
        except ValueError:
            several = f"{words} or several separated by commas"
            wanted = several if kind.startswith("tuple") else words
            raise argparse.ArgumentTypeError(f"{wanted} expected, received {text!r}") from None

    return read


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add what every run has: places, device, output."""
    group = parser.add_argument_group("places and output")
    group.add_argument(
        "--data",
        metavar="DIR|FILE.npz",
        help="the directory that holds the data set, which is only read (docs/data.md says how it "
        "has to look); or a file with x_train, y_train, x_test, y_test (images uint8 [N,H,W,C] or "
        "[N,H,W], labels int64)",
    )
    group.add_argument(
        "--download",
        action="store_true",
        help="fetch a missing data set into --data first, as trgl fetch does",
    )
    group.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        help="the run directory (default: a new numbered one in runs/)",
    )
    group.add_argument(
        "--overwrite",
        action="store_true",
        help="replace the files of the earlier run that is in --out",
    )
    group.add_argument("--device", metavar="cpu|cuda", help="where to compute (default: cpu)")
    group.add_argument(
        "--cache",
        metavar="memory|DIR",
        help="compute what frozen modules make of the training images once and keep it, in memory "
        "or in a file in DIR that is gone when the run ends; for training without random crops and "
        "flips. The result is the same (default: computed in every epoch)",
    )
    group.add_argument(
        "--offload",
        action="store_true",
        help="keep modules in main memory while they neither train nor are passed through; on the "
        "CPU nothing moves",
    )
    group.add_argument(
        "--tensorboard",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="write the metrics for TensorBoard too, in the run directory; needs the extra "
        "tensorboard (default: no)",
    )
    group.add_argument("--quiet", action="store_true", help="no progress on stderr")


def chosen_recipe(options: argparse.Namespace) -> Recipe:
    """The recipe of the command line with its overrides, or that of the run that goes on.

    Raises:
        ValueError: an unknown recipe, or values that it cannot have.
    """
    restored: Recipe | None = getattr(options, "restored", None)
    if restored is not None:
        return restored
    if options.recipe is None:
        raise ValueError(
            f"trgl {options.command} needs a RECIPE, such as {recipes.names()[0]} (trgl recipes "
            f"lists them), or --resume DIR; see trgl {options.command} --help."
        )
    recipe = recipes.find(options.recipe)
    changes = {
        field.name: getattr(options, f"field_{field.name}")
        for field in recipe_options()
        if getattr(options, f"field_{field.name}") is not None
    }
    if "network" in changes:  # a run can be gone on with from elsewhere
        changes["network"] = own_code.absolute(changes["network"])
    chosen = recipe.override(changes, "command line")
    _check_heeded(chosen, changes)
    method = getattr(options, "method", "") or "transport"
    ignored = ignored_by(method, chosen) if hasattr(options, "method") else ()  # trgl train has one
    for name in ignored:
        if name in changes and changes[name] != recipe_defaults()[name]:
            raise ValueError(
                f"{_flag(name)} has no effect with --method {method}, received "
                f"{show(changes[name])}; leave it out, or choose another method."
            )
    return chosen


def recipe_defaults() -> dict[str, Any]:
    """The default of every field of a recipe."""
    return {field.name: field.default for field in recipe_options()}


def _check_heeded(recipe: Recipe, changes: Mapping[str, Any]) -> None:
    """Holds that what was typed has an effect, unless it is the default.

    Raises:
        ValueError: another value rules it out.
    """
    defaults = recipe_defaults()
    for name, reason in unused(recipe).items():
        if name in changes and changes[name] != defaults[name]:
            raise ValueError(
                f"{_flag(name)} has no effect with {_flag(reason)} "
                f"{show(getattr(recipe, reason))}, received {show(changes[name])}; leave it out, "
                f"or change {_flag(reason)}."
            )


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def chosen_images(options: argparse.Namespace, recipe: Recipe) -> ImageData:
    """The data set of the command line.

    Raises:
        ValueError: it is not there, or damaged; a test image in a file that cannot be used.
    """
    images = load(recipe.dataset, options.data, options.download, image_size=recipe.image_size)
    if isinstance(images.x_test, ImageFiles) and not options.quiet:
        count = recipe.train_size or len(images.x_train)
        text = f"trgl: reading {len(images.x_test):,} test images to see that all can be read"
        if not recipe.mean:
            text += (
                f", and {count:,} training images for their mean and standard deviation, which "
                "--mean and --std would give"
            )
        print(text, file=sys.stderr, flush=True)
    if isinstance(images.x_test, ImageFiles):  # the first evaluation may be hours away
        try:
            images.x_test.check_readable(Readers(recipe.workers))
        except UnreadableImageError as error:
            raise ValueError(str(error)) from error
    return images


def chosen_device(options: argparse.Namespace) -> str:
    """The device, checked to be there.

    Raises:
        ValueError: no such device.
    """
    name = options.device or "cpu"
    if name.partition(":")[0] not in ("cpu", "cuda"):
        raise ValueError(
            f"--device must be cpu, cuda or one of several GPUs such as cuda:1, received {name!r}; "
            "use one of them."
        )
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"--device must name a device of this machine, received {name!r}: {reason_of(error)} "
            "Use cpu, or see trgl info."
        ) from error
    return str(device)


def chosen_tensorboard(options: argparse.Namespace) -> bool:
    """Whether event files are written.

    Raises:
        ValueError: they are wanted, and the package that it takes is not installed.
    """
    if options.tensorboard:
        check_installed()
    return bool(options.tensorboard)


def seed_number(text: str) -> int:
    """A seed: a whole number from 0 to what 64 bits hold."""
    digits = text.strip()
    short = digits.isdecimal() and len(digits) <= len(str(_LARGEST_SEED))
    if not short or int(digits) > _LARGEST_SEED:
        raise argparse.ArgumentTypeError(
            f"a whole number from 0 on, at most {_LARGEST_SEED}, expected, received {text!r}"
        )
    return int(digits)


def whole_number(text: str) -> int:
    """A whole number from 1 to what 31 bits hold."""
    digits = text.strip()
    if not digits.isdecimal() or len(digits) > 10 or not 1 <= int(digits) < 2**31:
        raise argparse.ArgumentTypeError(f"a whole number from 1 on expected, received {text!r}")
    return int(digits)
