"""What the methods, seeds and data of a comparison are called in tables and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from trgl import recipes

if TYPE_CHECKING:
    from trgl.report.comparison import Comparison


TRANSPORT_OF = "transport-tau"  # and a value: the method transport in a sweep over tau


def strength(recipe: Mapping[str, Any]) -> str:
    """The penalty's strength, e.g. ``tau = 0.05``."""
    if recipe["weighting"] == "multipliers":
        return "method of multipliers"
    doubled = ", doubled in the second half" if recipe["weighting"] == "doubled" else ""
    return f"tau = {recipe['tau']:g}{doubled}"


def method_name(method: str, recipe: Mapping[str, Any]) -> str:
    """A method in words that need no knowledge of the project."""
    if method == "vanilla":
        return "module by module (vanilla)"
    if method == "transport":
        return f"module by module, transport ({strength(recipe)})"
    if method.startswith(TRANSPORT_OF):
        tau = float(method.removeprefix(TRANSPORT_OF))
        return f"module by module, transport ({strength({**recipe, 'tau': tau})})"
    return "end to end (backpropagation)"


def seeds_text(seeds: Sequence[int]) -> str:
    """``seed 3``, ``seeds 0 to 4`` or ``seeds 0, 2, 7``."""
    if len(seeds) == 1:
        return f"seed {seeds[0]}"
    if len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[-1] + 1)):
        return f"seeds {seeds[0]} to {seeds[-1]}"
    return "seeds " + ", ".join(map(str, seeds))


def describe(comparison: Comparison) -> str:
    """Data set, images, network and regime as they were, in a few sentences."""
    images, recipe = comparison.images, comparison.recipe
    held = images.get("validation", 0)
    parts = [
        f"Data: {comparison.dataset}, {images.get('train', 0):,} training images"
        + (f", {held:,} validation images" if held else "")
        + f", {images.get('test', 0):,} test images."
    ]
    parts.append(
        f"Network: {network_text(recipe)}; module-wise training is {recipe['regime']}, "
        f"{epochs_text(recipe)}."
    )
    if changed(recipe):
        parts.append(f"Changed from the recipe: {changed(recipe)}.")
    if comparison.missing:
        parts.append(partial_text(comparison))
    return " ".join(parts)


def epochs_text(recipe: Mapping[str, Any]) -> str:
    """The epochs of module-wise training, e.g. ``50 + 10k epochs of module k in 5 laps``."""
    text = _count(recipe["epochs"], "epoch")
    if recipe["epochs_step"]:
        text = f"{recipe['epochs']} + {recipe['epochs_step']}k epochs of module k"
    elif recipe["regime"] != "parallel":
        text += " of each module"
    return text + (f" in {recipe['laps']} laps" if recipe["laps"] > 1 else "")


_ENCODERS = {
    "stem": "encoder in module 1",
    "trained": "trained encoder",
    "random": "random frozen encoder",
    "pretrained": "pretrained frozen encoder",
}


def network_text(recipe: Mapping[str, Any]) -> str:
    """The network that was trained, from the recipe's fields."""
    modules = _count(recipe["modules"], "module")
    if recipe["network"] == "blocks":
        encoder = _ENCODERS[recipe["encoder"]]
        body = (
            f"{modules} of {_count(recipe['blocks'], recipe['block'] + ' block')} with "
            f"{_count(recipe['filters'], 'filter')}, {encoder}"
        )
    elif recipe["network"] == "wide":
        body = (
            f"wide {recipe['modules']}-{recipe['blocks']} ResNet with "
            f"{_count(recipe['filters'], 'filter')} in {modules}, {_ENCODERS[recipe['encoder']]}"
        )
    else:
        body = f"{recipe['network'].replace('resnet', 'ResNet-')} in {modules}"
    return (
        body
        + f", {'one shared ' if recipe['shared_head'] else ''}{recipe['head']} head"
        + ("" if recipe["shared_head"] else " per module")
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def changed(recipe: Mapping[str, Any]) -> str:
    """The fields that differ from the recipe of that name, as ``epochs 2, tau 0.1``."""
    if recipe["name"] not in recipes.NAMES:
        return ""
    original = recipes.find(recipe["name"]).as_dict()
    fields = [key for key in original if key not in ("name", "title", "published")]
    # an earlier version wrote fewer fields; a run of a sweep has a tau of its own and no others
    different = [
        key
        for key in fields
        if recipe.get(key, original[key]) != original[key] and (key != "taus" or recipe[key])
    ]
    return ", ".join(f"{key.replace('_', '-')} {shown(recipe[key])}" for key in different)


def shown(value: Any) -> str:
    """A field's value in words."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ",".join(map(shown, value)) or "nothing"
    return f"{value:g}" if isinstance(value, float) else str(value)


def partial_text(comparison: Comparison) -> str:
    """How many runs are missing because the comparison was interrupted."""
    asked = len(comparison.methods) * len(comparison.seeds)
    return f"Partial: interrupted, {comparison.missing} of {asked} runs were not run to the end."
