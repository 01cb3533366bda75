"""A recipe, a method and a seed become loaders, a network and a trainer that fit each other."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn

from trgl.build import autocast_of, build_network
from trgl.data import (
    Batches,
    ImageData,
    Readers,
    UnreadableImageError,
    channel_statistics,
    hold_out,
    subset,
)
from trgl.data.sampling import DECODER, generator
from trgl.encoder import FrozenEncoder
from trgl.network import GreedyNetwork
from trgl.optimizers import without_decay
from trgl.per_module import OptimizerBuilder
from trgl.pretrain import pretrain
from trgl.recipes import Recipe
from trgl.schedulers import Schedule
from trgl.trainer import Trainer
from trgl.transport import Multipliers, Transport

_EVALUATION_BATCH = 500  # at most: evaluation never takes more memory than training


@dataclass(frozen=True)
class Task:
    """What one run is asked to do.

    Attributes:
        recipe: the configuration.
        method: a key of ``trgl.recipes.METHODS``.
        seed: of subset, initialization, order and augmentation; not negative.
        device: e.g. ``cpu`` or ``cuda``.
        threads: CPU threads, at least 1.
        data: where the images were read from, for the record.
        cache: where the features of frozen modules are kept: ``memory`` or a directory; None
            computes them in every epoch.
        offload: modules wait in main memory while they are not needed.
        save_every: how often a checkpoint is saved, as ``trgl.checkpoint.Every.parse`` reads it.
        keep: how many checkpoints are kept, at least 1.
        tensorboard: an event file for TensorBoard is written.
        variant: tells runs of one method apart whose recipes differ; empty where there is one.
    """

    recipe: Recipe
    method: str
    seed: int
    device: str = "cpu"
    threads: int = 1
    data: str | None = None
    cache: str | None = None
    offload: bool = False
    save_every: str = "10m"
    keep: int = 2
    tensorboard: bool = False
    variant: str = ""

    @property
    def label(self) -> str:
        """Method and seed, as a name for a directory or a line of progress."""
        return f"{self.variant or self.method}-seed{self.seed}"


@dataclass(frozen=True)
class Loaders:
    """The batches of a run; all are normalized by the training part's statistics.

    Attributes:
        train: shuffled and augmented.
        plain: the training images as they are, for the statistics of a frozen encoder.
        test: the full test set.
        validation: held out from the training subset, or None.
    """

    train: Batches
    plain: Batches
    test: Batches
    validation: Batches | None
    sizes: dict[str, int] = field(default_factory=dict)


def make_loaders(recipe: Recipe, images: ImageData, seed: int, device: str = "cpu") -> Loaders:
    """Draw the training subset and the validation part, and make batches of them.

    Raises:
        ValueError: a subset that the data set cannot give.
        UnreadableImageError: a training image in a file that cannot be used.
    """
    size = recipe.train_size or len(images.y_train)
    try:
        chosen = subset(images.y_train, size, seed)
        held = None
        if recipe.validation_size:
            kept, held = hold_out(images.y_train[chosen], recipe.validation_size, seed)
            chosen, held = chosen[kept], chosen[held]
    except ValueError as error:
        raise ValueError(f"{images.name}, --train-size {recipe.train_size}: {error}") from error
    x, y = images.x_train[chosen], images.y_train[chosen]
    readers = Readers(recipe.workers)  # one set of processes for all batches
    statistics = (recipe.mean, recipe.std) if recipe.mean else channel_statistics(x, readers)
    mean, std = statistics
    batches = functools.partial(
        Batches, mean=mean, std=std, seed=seed, device=device, workers=readers
    )
    train = batches(
        x,
        y,
        recipe.batch_size,
        shuffle=True,
        drop_last=recipe.drop_last,
        crop_padding=recipe.crop_padding,
        flip=recipe.flip,
    )
    at_once = min(_EVALUATION_BATCH, recipe.batch_size)
    validation = None
    if held is not None:
        validation = batches(images.x_train[held], images.y_train[held], at_once)
    return Loaders(
        train,
        batches(x, y, at_once),
        batches(images.x_test, images.y_test, at_once),
        validation,
        {
            "train": len(y),
            "validation": 0 if held is None else len(held),
            "test": len(images.y_test),
        },
    )


def make_trainer(task: Task, network: GreedyNetwork) -> Trainer:
    """The trainer of a task for a network that ``build_network`` made."""
    recipe = task.recipe
    whole = task.method == "end-to-end"
    epochs: int | Callable[[int], int] = recipe.epochs
    if whole and recipe.end_to_end_epochs:
        epochs = recipe.end_to_end_epochs
    elif recipe.epochs_step and not whole:
        epochs = [recipe.epochs, *recipe.epochs_of_modules()].__getitem__  # an encoder is module 0

    # end to end nothing is frozen but an encoder: a comparison has nothing to keep or move there
    keeps = not whole or recipe.frozen_encoder
    return Trainer(
        network,
        regime="end-to-end" if whole else recipe.regime,
        optimizer=make_optimizer(recipe, network, whole),
        scheduler=make_schedule(recipe, whole),
        transport=make_transport(recipe) if task.method == "transport" else None,
        criterion=nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing),
        epochs=epochs,
        laps=1 if whole else recipe.laps,
        device=task.device,
        clip_norm=recipe.clip_norm or None,
        accumulate=recipe.accumulate,
        autocast=autocast_of(recipe),
        compile=recipe.compile,
        channels_last=recipe.channels_last,
        chunk=recipe.chunk or None if keeps else None,
        cache=task.cache if keeps else None,
        offload=task.offload and (not whole or (keeps and task.cache is not None)),
        evaluate_every=recipe.evaluate_every,
        seed=task.seed,
    )


def make_optimizer(recipe: Recipe, network: GreedyNetwork, whole: bool) -> OptimizerBuilder:
    """The optimizer of a recipe, from a module's parameters.

    Args:
        recipe: the configuration.
        network: in which norms and tables of positions are looked for.
        whole: for end-to-end training.
    """
    keywords: dict[str, float] = {
        "lr": recipe.end_to_end_learning_rate if whole else recipe.learning_rate,
        "weight_decay": recipe.weight_decay,
    }
    kind: type[torch.optim.Optimizer] = torch.optim.AdamW
    if recipe.optimizer == "sgd":
        kind = torch.optim.SGD
        keywords["momentum"] = recipe.momentum
    build = functools.partial(kind, **keywords)  # type: ignore[arg-type]
    return build if recipe.decay_norms else without_decay(build, network)


def make_schedule(recipe: Recipe, whole: bool) -> Schedule:
    """The learning rate of a recipe over the epochs of a module, or of end-to-end training."""
    return Schedule(
        shape=recipe.end_to_end_schedule if whole else recipe.schedule,
        milestones=recipe.end_to_end_milestones if whole else recipe.milestones,
        divisor=recipe.milestone_divisor,
        warmup=recipe.warmup,
        minimum=recipe.minimum_learning_rate,
    )


def make_transport(recipe: Recipe) -> Transport | Multipliers:
    """The penalty of a recipe."""
    if recipe.weighting == "multipliers":
        return Multipliers(
            initial=recipe.multiplier_initial,
            growth=recipe.multiplier_growth,
            every=recipe.multiplier_every,
            reduction=recipe.reduction,
            p=recipe.power,
        )
    double = recipe.weighting == "doubled"
    return Transport(recipe.tau, double=double, reduction=recipe.reduction, p=recipe.power)


@dataclass(frozen=True)
class Prepared:
    """A task whose data, network and trainer are there and fit each other."""

    task: Task
    images: ImageData
    loaders: Loaders
    network: GreedyNetwork
    trainer: Trainer


def prepare(task: Task, images: ImageData, trained: bool = False) -> Prepared:
    """Draw the data, build the network and the trainer; nothing is written.

    A frozen encoder gets its statistics, and before that its weights where the recipe has it
    pretrained; nothing else is trained.

    Args:
        task: what to do.
        images: the data set.
        trained: a checkpoint will give all weights and statistics, so that this is left out.

    Raises:
        ValueError: a recipe that does not fit the data, a network that cannot be split so, an
            autoencoder that diverges, or an image in a file that cannot be used.
    """
    with threads(task.threads), _wrong_input():
        loaders = make_loaders(task.recipe, images, task.seed, task.device)
        if loaders.validation is not None:  # the first evaluation may be hours away
            loaders.validation.check_readable()
        network = build_network(task.recipe, images, task.seed).to(task.device)
        trainer = make_trainer(task, network)
        if task.recipe.encoder == "pretrained" and not trained:
            assert isinstance(network.encoder, FrozenEncoder)
            pretrain(
                network.encoder,
                loaders.train,
                task.recipe.pretrain_epochs,
                task.recipe.pretrain_learning_rate,
                generator(task.seed, DECODER).initial_seed(),
            )
        if task.recipe.frozen_encoder and not trained:
            network.calibrate(loaders.plain)
        trainer.check_cache(loaders.train)
    return Prepared(task, images, loaders, network, trainer)


@contextmanager
def _wrong_input() -> Iterator[None]:
    """As long as nothing runs, a damaged file is wrong input, not a failure."""
    try:
        yield
    except UnreadableImageError as error:
        raise ValueError(str(error)) from error


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Compute with this many CPU threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
