"""Epochs, evaluation and records around a regime."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from .accidents import DeviceMemoryError
from .checkpoint import Checkpoints
from .encoder import FrozenEncoder
from .feed import Feed, Loader, feed_for
from .fitting import Fitting, Stopped, evaluated
from .frozen import FrozenFront
from .meter import DivergenceError
from .metrics import EpochRecord, Evaluation, History
from .network import GreedyNetwork
from .per_module import (
    Epochs,
    OptimizerBuilder,
    check_run,
    criteria_of,
    device_of,
    epochs_of,
    steps_of,
    weights_of,
)
from .regimes import Phase, schedule
from .residency import Residency
from .resumable import Resumable
from .schedulers import SchedulerBuilder, Schedulers
from .state import Cursor
from .step import Criterion
from .store import Place
from .transport import Multipliers, Transport

__all__ = ["DeviceMemoryError", "DivergenceError", "Stopped", "Trainer"]


class Trainer(Resumable):
    """Trains a network module by module, or end to end as the baseline.

    L_k = criterion(F_k(T_k(x)), labels) + C_k / (2 τ_k), x the detached output of module k−1

    Module numbers count from 1; 0 is an encoder that trains, without penalty. Lists and callables
    refer to the modules that train, front to back; end to end, the network is a single module.

    Args:
        network: from `trgl.split`.
        regime: "parallel", "sequential", "multi-lap" or "end-to-end".
        optimizer: a callable from a list of parameters to an Optimizer, called once per module; a
            shared head has one of its own, which is stepped once per module.
        transport: how the transport cost is weighed; None trains without penalty and computes no
            energy.
        scheduler: a `Schedule` over each module's epochs; or a callable from an Optimizer to a
            scheduler, stepped after each epoch of its module (a shared head's after each epoch of
            any). ReduceLROnPlateau is given the module's loss.
        criterion: (logits, labels) -> 0-dim tensor, a mean over the batch; or one per module. None
            is cross-entropy.
        epochs: a number, a list with one per module, or a function of the module's number.
        laps: R of the regime "multi-lap", which must divide the epochs of every module.
        device: of the run; None leaves the network where it is.
        clip_norm: maximal norm of each module's gradient, > 0.
        accumulate: batches per optimizer step, ≥ 1; gradients are averaged.
        autocast: torch.bfloat16, torch.float16 (with loss scaling per module), or None.
        channels_last: memory layout of the network and the images.
        compile: compile each module; a dict holds options for `torch.compile`.
        chunk: images per pass through the modules that are frozen in front of those that train;
            None takes a batch as it is. Small passes need little memory, and change the features by
            no more than the rounding of layers that compute another batch size in another way.
        cache: the outputs of the frozen modules for the training images are computed once and kept:
            in "memory", or on the disk of a directory. For training sets without random
            augmentation.
        offload: modules stay in main memory while they neither train nor process features, also
            when `on_epoch` is called; the optimizer state of modules that do not train
            always does. On the CPU nothing moves.
        evaluate_every: epochs between evaluations; the last epoch is always evaluated.
        seed: of PyTorch's generators during `fit`, which are given back as they were.

    Raises:
        ValueError: an argument that is out of range or does not fit the network.

    Source: TRGL (Karkar et al., NeurIPS 2023), equation 10 and section 3.2.
    """

    def __init__(
        self,
        network: GreedyNetwork,
        regime: str = "parallel",
        *,
        optimizer: OptimizerBuilder,
        transport: Transport | Multipliers | None = None,
        scheduler: SchedulerBuilder | None = None,
        criterion: Criterion | Sequence[Criterion] | None = None,
        epochs: Epochs = 300,
        laps: int = 1,
        device: torch.device | str | None = None,
        clip_norm: float | None = None,
        accumulate: int = 1,
        autocast: torch.dtype | None = None,
        channels_last: bool = False,
        compile: bool | Mapping[str, Any] = False,
        chunk: int | None = None,
        cache: Place | None = None,
        offload: bool = False,
        evaluate_every: int = 1,
        seed: int = 0,
    ) -> None:
        check_run(network, evaluate_every, seed, compile)
        self.network = network
        self.regime = regime
        self.transport = transport
        self.evaluate_every = evaluate_every
        self.seed = seed
        self.autocast = autocast
        modules = [(len(network), network.whole())] if regime == "end-to-end" else network.trained
        numbers = [number for number, _ in modules]
        epochs_by_number = epochs_of(epochs, numbers)
        self.phases: list[Phase] = schedule(regime, epochs_by_number, laps)

        parameter = next(network.parameters(), None)
        here = torch.device("cpu") if parameter is None else parameter.device
        self.device = device_of(device, here)
        network.to(self.device)
        self.channels_last = channels_last
        if channels_last:
            network.to(memory_format=torch.channels_last)

        criteria = criteria_of(criterion, numbers, self.device)
        self.weights = weights_of(transport, modules, self.device, regime == "end-to-end")
        self.steps, shared_optimizer = steps_of(
            modules,
            optimizer,
            criteria,
            self.device,
            shared=self._shared_parameters(),
            transport=transport,
            weights=self.weights,
            whole=regime == "end-to-end",
            compile=compile,
            autocast=autocast,
            clip_norm=clip_norm,
            accumulate=accumulate,
        )
        self.residency = Residency(network, self.steps, self.device, offload)
        self.front = FrozenFront(network, self.steps, chunk, cache, self.residency.bring)
        active = [phase.active for phase in self.phases]
        self.front.check(active)
        self.residency.check(active, cached=cache is not None)
        self.schedulers = Schedulers(
            scheduler,
            {
                step.number: [o for o in step.optimizers if o not in shared_optimizer]
                for step in self.steps
            },
            shared_optimizer,
            epochs_by_number,
            sum(max(phase.active) > 0 for phase in self.phases),
        )
        self.cursor = Cursor()
        self.fitting: Fitting | None = None
        self.steady = True  # between two batches: a state taken here is whole
        self.halting = False

    @property
    def epochs_total(self) -> int:
        """Epochs of the whole run."""
        return len(self.phases)

    def fit(
        self,
        train: Loader,
        test: Loader | None = None,
        validation: Loader | None = None,
        *,
        on_epoch: Callable[[EpochRecord], None] | None = None,
        on_step: Callable[[int, int], None] | None = None,
        checkpoints: Checkpoints | None = None,
        resume: bool | str | os.PathLike[str] = False,
    ) -> History:
        """Trains the network, and leaves it in evaluation mode.

        Gradients that are there are dropped. A second call, also after one that was interrupted,
        trains all epochs once more from where the network is: weights, optimizers, schedulers and
        multipliers go on, and the generators start from `seed` again. Evaluating draws nothing that
        training would have drawn: it never changes what is learned.

        With `resume` the training continues instead; on the CPU it is bitwise identical to one that
        was never interrupted, whatever the batch after which it was. The loader gives the batches
        that it gave: its order and what it draws depend on the generators, on a `generator`,
        `epoch` or `state_dict` of its own or its sampler's; batches that are done are asked for
        again, and passed over. Workers that persist from epoch to epoch draw anew.

        Args:
            train: re-iterable of (images [N, C, H, W] float, labels [N] int64).
            test: for reporting only.
            validation: to select the best module (`History.best_module`).
            on_epoch: called after each epoch with its record.
            on_step: called after each batch with the numbers of epoch and batch, from 1.
            checkpoints: where and how often the state is saved, also when the training is over or
                stopped. If the disk cannot be written, a warning says so, and training continues.
            resume: True goes on from where an earlier call was stopped or `load_state_dict` led; a
                file or a folder of checkpoints is loaded first.

        Returns:
            What was measured, per epoch.

        Raises:
            ValueError: an empty set, images or labels that do not fit the network, an encoder that
                is frozen before it was calibrated, a transport cost without any energy, a cache
                that cannot be: nothing is frozen, the images change, or there is no room; a state
                that does not fit, or that a checkpoint cannot hold; a folder with checkpoints of a
                later step than the training begins from.
            Stopped: `stop` was called.
            DivergenceError: a loss or a gradient became infinite or NaN. On the CPU the module was
                not updated by it.
            DeviceMemoryError: memory ran out; the message says in which module, and what helps.
        """
        feed = self._feed(train, "training")
        others = [
            None if loader is None else self._feed(loader, name)
            for loader, name in ((test, "test"), (validation, "validation"))
        ]
        if resume is False:
            self.cursor, self.steady = Cursor(), True
        elif resume is not True:
            self.load(resume)
        self._check_steady()
        if isinstance(self.network.encoder, FrozenEncoder):
            self.network.encoder.check_calibrated()
        self._open(feed)
        Fitting(self, feed, others[0], others[1], on_epoch, on_step, checkpoints).run()
        return History(tuple(self.cursor.records))

    def stop(self) -> None:
        """Lets `fit` finish its batch, save, and raise `trgl.Stopped`; from wherever it is called.

        It may be called in a callback, a signal handler or another thread. An evaluation is left at
        once, and done again by the `fit` that goes on.
        """
        self.halting = True

    def evaluate(self, loader: Loader) -> Evaluation:
        """Accuracy and loss of all modules on a data set; end to end, of the last one only.

        The network is left in evaluation mode.

        Raises:
            ValueError: an empty set, or images or labels that do not fit the network.
        """
        return evaluated(self, iter(self._feed(loader, "evaluation")))

    def check_cache(self, train: Loader) -> None:
        """Holds that the features of a training set can be kept, as `fit` does.

        Raises:
            ValueError: nothing is frozen, the images change at random, or there is no room.
        """
        self._open(self._feed(train, "training"))
        self.front.close()

    def _open(self, feed: Feed) -> None:
        if self.front.cache is not None:
            feed.check_repeats()
        self.front.open([phase.active for phase in self.phases], feed.samples)

    def _feed(self, loader: Loader, name: str) -> Feed:
        return feed_for(self.network, loader, name, self.device, self.channels_last, self.autocast)

    def _shared_parameters(self) -> list[nn.Parameter]:
        if self.regime == "end-to-end" or not self.network.head_is_shared:
            return []
        return [p for p in self.network[0].head.parameters() if p.requires_grad]
