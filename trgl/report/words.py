"""What the methods, seeds and data of a comparison are called in tables and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trgl.report.comparison import Comparison


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
    return "end to end (backpropagation)"


def seeds_text(seeds: Sequence[int]) -> str:
    """``seed 3``, ``seeds 0 to 4`` or ``seeds 0, 2, 7``."""
    if len(seeds) == 1:
        return f"seed {seeds[0]}"
    if len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[-1] + 1)):
        return f"seeds {seeds[0]} to {seeds[-1]}"
    return "seeds " + ", ".join(map(str, seeds))


def describe(comparison: Comparison) -> str:
    """Data set, images, network and regime in two sentences."""
    images, recipe = comparison.images, comparison.recipe
    held = images.get("validation", 0)
    parts = [
        f"Data: {comparison.dataset}, {images.get('train', 0):,} training images"
        + (f", {held:,} validation images" if held else "")
        + f", {images.get('test', 0):,} test images."
    ]
    parts.append(
        f"Network: {recipe['title']}; module-wise training is {recipe['regime']}, "
        f"{recipe['epochs']} epochs."
    )
    return " ".join(parts)
