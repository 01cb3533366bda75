"""What the fields of a recipe must be together."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trgl.recipes.recipe import Recipe


def check_together(recipe: Recipe) -> None:
    """Hold the fields of a recipe against each other.

    Raises:
        ValueError: values that contradict each other.
    """
    if recipe.label_smoothing >= 1:
        raise ValueError(f"label_smoothing must be below 1, received {recipe.label_smoothing}.")
    if bool(recipe.mean) != bool(recipe.std):
        raise ValueError("mean and std belong together: give both or neither.")
    if recipe.train_size and recipe.validation_size >= recipe.train_size:
        raise ValueError(
            f"validation_size must leave training images: {recipe.validation_size} of "
            f"{recipe.train_size} were to be held out; lower it or raise train_size."
        )
    if recipe.regime == "multi-lap":
        for epochs in recipe.epochs_of_modules():
            if epochs % recipe.laps:
                raise ValueError(
                    f"the epochs of each module must be a multiple of the laps, received "
                    f"{epochs} epochs and {recipe.laps} laps; change epochs, epochs_step or laps."
                )
    elif recipe.laps != 1:
        raise ValueError(
            f"laps belong to the regime multi-lap, received {recipe.laps} laps with the regime "
            f"{recipe.regime}; set regime to multi-lap or laps to 1."
        )
    if recipe.regime == "parallel" and recipe.epochs_step:
        raise ValueError(
            "parallel modules train for the same epochs, received epochs_step "
            f"{recipe.epochs_step}; set it to 0 or the regime to sequential."
        )
    recipe.check_network()
    if recipe.batch_size == 1 and recipe.head in ("conv", "mlp", "mlp-sr"):
        raise ValueError(
            f"the batch norm of the head {recipe.head} cannot train on one image, received "
            "batch_size 1; set it to 2 or more, or head to linear or pool-linear."
        )
    if recipe.local_loss == "similarity" and recipe.local_loss_weight > 1:
        raise ValueError(
            f"the weight of the local loss similarity is at most 1, received "
            f"{recipe.local_loss_weight:g}; lower local_loss_weight."
        )
    if recipe.local_loss == "none" and recipe.local_loss_weight:
        raise ValueError(
            f"local_loss_weight belongs to a local loss, received {recipe.local_loss_weight:g} "
            "with none; set local_loss, or it to 0."
        )
    _check_schedules(recipe)
    taus = list(recipe.taus)
    if any(not 0 < tau < math.inf for tau in taus) or len(set(taus)) < len(taus):
        raise ValueError(
            f"taus must be different, finite and above 0, received {taus}; drop the others."
        )
    if taus and recipe.weighting == "multipliers":
        raise ValueError(
            f"the method of multipliers has no tau, received taus {taus}; leave them out, or set "
            "weighting to fixed or doubled."
        )


def _check_schedules(recipe: Recipe) -> None:
    for name, shape in (
        ("milestones", recipe.schedule),
        ("end_to_end_milestones", recipe.end_to_end_schedule),
    ):
        steps = list(getattr(recipe, name))
        if any(not isinstance(t, int) or t < 1 for t in steps) or steps != sorted(set(steps)):
            raise ValueError(
                f"{name} are epochs from 1 on in increasing order, received {steps}; sort them "
                "and drop repetitions."
            )
        if steps and shape != "milestones":
            field = name.replace("milestones", "schedule")
            raise ValueError(
                f"{name} belong to the schedule milestones, received {steps} with {field} "
                f"{shape}; set {field} to milestones, or leave {name} empty."
            )
    whole = recipe.end_to_end_epochs or recipe.epochs
    shortest = min(recipe.epochs, whole, *recipe.epochs_of_modules())
    if recipe.warmup >= shortest:
        raise ValueError(
            f"warmup must leave epochs to every module, received {recipe.warmup} of {shortest}; "
            "lower it or raise epochs."
        )
    minimum = recipe.minimum_learning_rate
    for name, shape in (
        ("learning_rate", recipe.schedule),
        ("end_to_end_learning_rate", recipe.end_to_end_schedule),
    ):
        if shape == "cosine" and minimum > getattr(recipe, name):
            raise ValueError(
                f"minimum_learning_rate must not be above {name}, received {minimum:g} with "
                f"{getattr(recipe, name):g}; lower it."
            )
    if minimum and "cosine" not in (recipe.schedule, recipe.end_to_end_schedule):
        raise ValueError(
            f"minimum_learning_rate belongs to the schedule cosine, received {minimum:g} with "
            f"{recipe.schedule}; set schedule to cosine, or it to 0."
        )
