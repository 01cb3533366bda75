"""The configuration of a run: every choice that shapes its result, checked and frozen."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trgl.data import DATASETS
from trgl.losses import LOSSES
from trgl.near import meant
from trgl.recipes.checks import check_together
from trgl.recipes.fields import check_field, option
from trgl.recipes.network import NetworkFields
from trgl.schedulers import SHAPES

METHODS = {
    "vanilla": "module-wise, without a penalty",
    "transport": "module-wise, with the transport penalty",
    "end-to-end": "one loss at the end, ordinary backpropagation",
}


@dataclass(frozen=True, kw_only=True)
class Recipe(NetworkFields):
    """What a run does, apart from seed, method, device and the places of files.

    Every field is an option of ``trgl train`` and ``trgl compare``; its help text and range are in
    its metadata. ``sources`` says for each field where its value comes from.

    Raises:
        ValueError: a value out of its range, or values that contradict each other.
    """

    name: str = option("name of the recipe")
    title: str = option("what it trains, in a few words")
    published: str = option(
        "table, network and data set whose figures stand beside ours", default=""
    )
    sources: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)

    dataset: str = option("data set; --data FILE.npz replaces it", choices=DATASETS)
    train_size: int = option(
        "training images drawn, stratified; 0 = all of them", unit="images", least=0
    )
    validation_size: int = option(
        "of those, images held out for validation", default=0, unit="images", least=0
    )
    image_size: int = option(
        "side that images are resized and cropped to; 0 = as they are stored",
        default=0,
        unit="pixels",
        least=0,
    )
    crop_padding: int = option(
        "random crop after padding each side by this much", default=0, unit="pixels", least=0
    )
    flip: bool = option("mirror training images at random", default=False)
    mean: tuple[float, ...] = option(
        "mean of each channel for normalization, pixels from 0 to 1; "
        "nothing = that of the training images",
        default=(),
    )
    std: tuple[float, ...] = option(
        "standard deviation of each channel; nothing = that of the training images", default=()
    )
    workers: int = option(
        "processes that read image files ahead of the training, which changes no result; "
        "0 = the training reads them itself; images that are in memory need none",
        default=4,
        unit="processes",
        least=0,
    )

    regime: str = option(
        "order of the module-wise steps",
        default="parallel",
        choices=("parallel", "sequential", "multi-lap"),
    )
    laps: int = option("laps over the modules, for multi-lap", default=1, unit="laps", least=1)
    chunk: int = option(
        "images in one pass through modules that are frozen in front of those that train, so that "
        "it needs less memory; 0 = a batch",
        default=0,
        unit="images",
        least=0,
    )
    epochs: int = option("epochs (of each module)", unit="epochs", least=1)
    epochs_step: int = option(
        "more epochs for each later module: the k-th gets epochs + k times this; "
        "sequential regimes only",
        default=0,
        unit="epochs",
        least=0,
    )
    batch_size: int = option("batch size", unit="images", least=1)
    drop_last: bool = option(
        "leave out the last batch of an epoch where it is smaller than the others", default=False
    )
    optimizer: str = option("optimizer", default="sgd", choices=("sgd", "adamw"))
    learning_rate: float = option("learning rate", above=0)
    momentum: float = option("momentum of SGD", default=0.9, least=0)
    weight_decay: float = option("weight decay", default=0.0, least=0)
    decay_norms: bool = option(
        "weight decay also on biases, norms and tables of positions", default=True
    )
    schedule: str = option(
        "learning rate over the epochs of a module: the same, divided at milestones, or half a "
        "cosine",
        default="constant",
        choices=SHAPES,
    )
    milestones: tuple[int, ...] = option(
        "epochs of a module after which milestones divide its learning rate",
        default=(),
        unit="epochs",
    )
    milestone_divisor: float = option(
        "what milestones divide a learning rate by, end to end too", default=5.0, above=1
    )
    warmup: int = option(
        "first epochs of a module, in which its learning rate rises in a straight line; "
        "end to end too",
        default=0,
        unit="epochs",
        least=0,
    )
    minimum_learning_rate: float = option(
        "where a cosine ends, end to end too", default=0.0, least=0
    )
    label_smoothing: float = option("label smoothing", default=0.0, least=0)
    local_loss: str = option(
        "what a module minimizes beside cross-entropy: nothing, PredSim's similarity matching or "
        "InfoPro's reconstruction of the image, each with layers of its own; not end to end",
        default="none",
        choices=("none", *LOSSES),
    )
    local_loss_weight: float = option(
        "its weight: w in (1 - w) cross-entropy + w similarity, or in cross-entropy + w "
        "reconstruction; 0 = 0.99 and 1",
        default=0.0,
        least=0,
    )
    end_to_end_learning_rate: float = option("learning rate of end-to-end training", above=0)
    end_to_end_epochs: int = option(
        "epochs of end-to-end training; 0 = the option epochs",
        default=0,
        unit="epochs",
        least=0,
    )
    end_to_end_schedule: str = option(
        "learning rate over the epochs of end-to-end training",
        default="milestones",
        choices=SHAPES,
    )
    end_to_end_milestones: tuple[int, ...] = option(
        "epochs after which end-to-end training divides its learning rate",
        default=(),
        unit="epochs",
    )

    accumulate: int = option(
        "batches per optimizer step, whose gradients are averaged",
        default=1,
        unit="batches",
        least=1,
    )
    clip_norm: float = option(
        "largest norm of a module's gradient; 0 = no bound", default=0.0, least=0
    )
    autocast: str = option(
        "mixed precision; float16 has loss scaling for each module",
        default="none",
        choices=("none", "bfloat16", "float16"),
    )
    compile: bool = option("compile each module with torch.compile", default=False)
    channels_last: bool = option(
        "memory layout of images and feature maps with the channels last", default=False
    )

    tau: float = option("strength 1/(2 tau) of the transport penalty: smaller is stronger", above=0)
    taus: tuple[float, ...] = option(
        "values of tau that trgl compare sweeps over in the place of one; nothing = tau alone",
        default=(),
    )
    weighting: str = option(
        "tau for all modules, tau then twice tau in the second half of the modules, or the "
        "method of multipliers in its place",
        default="fixed",
        choices=("fixed", "doubled", "multipliers"),
    )
    multiplier_initial: float = option("first weight of the criterion", default=1.0, above=0)
    multiplier_growth: float = option("its growth per unit of the criterion", default=1.0, least=0)
    multiplier_every: int = option(
        "its growth happens every so many steps", default=50, unit="steps", least=1
    )
    reduction: str = option(
        "energy of a block per feature, or its sum", default="mean", choices=("mean", "sum")
    )
    energy: str = option(
        "what is penalized: a block's residue, its displacement after the activation, or the "
        "module's as a whole",
        default="residue",
        choices=("residue", "displacement", "module"),
    )
    power: float = option("exponent p of the energy", default=2.0, least=1)

    evaluate_every: int = option(
        "epochs from one evaluation on test and validation images to the next; the last has one",
        default=10,
        unit="epochs",
        least=1,
    )
    threads: int = option(
        "CPU threads of one run, which shape its last digits; 0 = all cores, shared by --jobs",
        default=0,
        unit="threads",
        least=0,
    )

    def __post_init__(self) -> None:
        for field in options():
            check_field(self, field)
        check_together(self)

    @property
    def largest_batch(self) -> int:
        """Images of the largest training batch: all of them where they are fewer than one."""
        count = self.train_size - self.validation_size
        return min(self.batch_size, count) if self.train_size else self.batch_size

    def epochs_of_modules(self) -> list[int]:
        """Epochs of each module, first to last; the k-th (k from 1) gets epochs + k·epochs_step."""
        return [self.epochs + self.epochs_step * k for k in range(1, self.modules + 1)]

    def override(self, changes: Mapping[str, Any], source: str = "given") -> Recipe:
        """The same recipe with some fields changed and their sources noted.

        Raises:
            ValueError: an unknown field, or a recipe that is not valid any more.
        """
        known = [field.name for field in options()]
        for key in changes:
            if key not in known:
                raise ValueError(
                    f"a recipe has no field {key!r}.{meant(key, known)} `trgl train --help` shows "
                    f"them as options."
                )
        sources = {**self.sources, **dict.fromkeys(changes, source)}
        return dataclasses.replace(self, **changes, sources=sources)

    def as_dict(self) -> dict[str, Any]:
        """Every field but the sources, as values that JSON knows."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del values["sources"]
        return {key: list(v) if isinstance(v, tuple) else v for key, v in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], sources: Mapping[str, str]) -> Recipe:
        """The recipe of which ``as_dict`` gave the values; fields that are missing are as default.

        Raises:
            ValueError: an unknown field, or a value that it cannot have.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(values.keys() - known)
        if unknown:
            raise ValueError(
                f"a recipe has no field {', '.join(unknown)}; another version of trgl wrote this."
            )
        fields: dict[str, Any] = {
            key: tuple(v) if isinstance(v, list) else v for key, v in values.items()
        }
        return cls(**{**fields, "sources": dict(sources)})


def options() -> list[dataclasses.Field[Any]]:
    """The fields that can be overridden, in the order of the class."""
    fields = dataclasses.fields(Recipe)
    apart = ("name", "title", "published", "sources")
    return [field for field in fields if field.name not in apart]
