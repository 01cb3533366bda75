"""Groups of values with one source each, and the recipe that they make together.

A setting reads ``{source: {field: value}}``: where the values come from, and what they are. A
source begins with "ours" where we chose the value because the papers do not say theirs, or chose
another; ``trgl compare`` points these out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from trgl.models import names
from trgl.recipes.recipe import Recipe, options

Settings = Mapping[str, Mapping[str, Any]]

PLAIN = "ours: the plain choice"
UNUSED = "not used by these settings"
UNPUBLISHED = "ours, not published: "


def make(name: str, title: str, *settings: Settings, published: str = "") -> Recipe:
    """The recipe of several settings; where two give a field, the later one counts.

    Args:
        name: of the recipe.
        title: what it trains, in a few words.
        settings: source, field, value; fields that none gives have their default.
        published: table, network and data of the published rows that belong beside its figures.

    Raises:
        ValueError: values that are wrong, or contradict each other.
    """
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for setting in settings:
        for source, fields in setting.items():
            values |= fields
            sources |= dict.fromkeys(fields, source)
    recipe = Recipe(name=name, title=title, published=published, **values)
    idle = unused(recipe)
    told = {
        field.name: sources.get(field.name, UNUSED if field.name in idle else PLAIN)
        for field in options()
    }
    return dataclasses.replace(recipe, sources=told)


def unused(recipe: Recipe) -> dict[str, str]:
    """The fields that say nothing about this recipe, and the field that rules each of them out."""
    network = recipe.network
    found: dict[str, str] = {}

    def idle(reason: str, *fields: str) -> None:
        found.update(dict.fromkeys(fields, reason))

    if network not in ("blocks", "wide"):
        idle("network", "blocks", "filters", "encoder_layers", "encoder_kernel", "encoder_stride")
    if network != "blocks":
        idle("network", "block")
    if network not in names.WITH_STEM:
        idle("network", "stem")
    if recipe.regime != "multi-lap":
        idle("regime", "laps")
    if recipe.regime == "parallel":
        idle("regime", "epochs_step")
    if recipe.schedule != "milestones":
        idle("schedule", "milestones")
    if "cosine" not in (recipe.schedule, recipe.end_to_end_schedule):
        idle("schedule", "minimum_learning_rate")
    if recipe.encoder != "pretrained":
        idle("encoder", "pretrain_epochs", "pretrain_learning_rate")
    if network not in (*names.SWINS, *names.VITS) and not network.startswith(names.TIMM):
        idle("network", "patch", "window")
    if recipe.init != "orthogonal":
        idle("init", "init_gain")
    if recipe.init != "truncated-normal":
        idle("init", "init_std")
    if recipe.head != "conv":
        idle("head", "head_windows")
    if recipe.optimizer != "sgd":
        idle("optimizer", "momentum")
    if recipe.weighting == "multipliers":
        idle("weighting", "tau", "taus")
    else:
        idle("weighting", "multiplier_initial", "multiplier_growth", "multiplier_every")
    return found


def ignored_by(method: str, recipe: Recipe) -> tuple[str, ...]:
    """The fields of a recipe that a single run by this method does not read."""
    whole = tuple(field for field in recipe.as_dict() if field.startswith("end_to_end_"))
    multiplier = ("multiplier_initial", "multiplier_growth", "multiplier_every")
    penalty = ("tau", "weighting", "reduction", "power", *multiplier)
    if method == "transport":
        return whole
    if method == "vanilla":
        return (*whole, *penalty)
    modules = ("learning_rate", "schedule", "milestones", "epochs_step")
    local = ("local_loss", "local_loss_weight")
    epochs = ("epochs",) if recipe.end_to_end_epochs else ()
    return (*penalty, *modules, *local, *epochs)


def ours(recipe: Recipe) -> dict[str, str]:
    """The fields that are not as published, or not published, with the reason of our choice."""
    return {
        field: source
        for field, source in recipe.sources.items()
        if source.startswith("ours") and source != PLAIN and field not in ("threads", "workers")
    }


_NEURIPS = "NeurIPS 2023, appendix E"
SCRIPTS = "the authors' experiments; not in the text"
# What all tables share, whatever the text or the scripts say it in
COMMON: Settings = {
    _NEURIPS: {
        "optimizer": "sgd",
        "momentum": 0.9,
        "schedule": "constant",
        "end_to_end_learning_rate": 0.1,
        "end_to_end_schedule": "milestones",
        "end_to_end_milestones": (120, 160, 200),
        "milestone_divisor": 5.0,
        "init": "orthogonal",
    },
    SCRIPTS: {
        "crop_padding": 4,
        "flip": True,
        "mean": (),  # of the data set
        "std": (),
        "reduction": "mean",  # with a sum the published taus mean nothing
        "evaluate_every": 1,  # the published maximum goes over all epochs
        "decay_norms": True,
    },
    "NeurIPS 2023, equation 10": {"energy": "residue", "power": 2.0},
}

# Tables 1 to 4 and 7: large networks in a few modules, in parallel
LARGE: Settings = {
    _NEURIPS: {
        "weight_decay": 2e-4,
        "learning_rate": 0.003,
        "batch_size": 256,
        "init_gain": 0.1,
        "label_smoothing": 0.1,
        "epochs": 300,
    },
    "NeurIPS 2023, section 4.1": {"regime": "parallel", "head": "conv", "shared_head": False},
}

# Tables 8 to 13, and those of the workshop paper
WIDE: Settings = {
    _NEURIPS: {
        "weight_decay": 1e-4,
        "batch_size": 128,
        "init_gain": 0.05,
        "label_smoothing": 0.0,
    },
    "NeurIPS 2023, section 4; AAAI workshop 2022, section on related work": {
        "head": "conv",
        "shared_head": False,
    },
    UNPUBLISHED + "Table 3's; not searched for: compare a few by --taus and --validation-size": {
        "tau": 0.5
    },
    "NeurIPS 2023, section 3.3: best in all experiments but one": {"weighting": "doubled"},
}

PARALLEL: Settings = {_NEURIPS: {"regime": "parallel", "learning_rate": 0.003, "epochs": 300}}


def one_by_one(regime: str, first: int, step: int, source: str) -> Settings:
    """Sequential or multi-lap training, in five laps.

    Args:
        regime: sequential or multilap.
        first: epochs of module 0, over all laps.
        step: module k gets `first` + k·`step`.
        source: of the epochs.
    """
    laps = 5 if regime == "multilap" else 1
    order = "multi-lap" if regime == "multilap" else "sequential"
    return {
        _NEURIPS: {"regime": order, "learning_rate": 0.007, "end_to_end_epochs": 300},
        source: {"epochs": first, "epochs_step": step, "laps": laps},
    }
