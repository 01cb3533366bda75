"""Epochs, evaluation and records around a regime."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .encoder import FrozenEncoder
from .evaluation import evaluate
from .feed import Feed, Loader
from .metrics import EpochRecord, Evaluation, History
from .network import GreedyModule, GreedyNetwork
from .per_module import (
    Epochs,
    OptimizerBuilder,
    build_optimizer,
    criteria_of,
    epochs_of,
)
from .regimes import Phase, schedule, train_epoch
from .schedulers import SchedulerBuilder, Schedulers
from .step import Criterion, LocalStep
from .transport import Multipliers, Transport, Weights


class DivergenceError(RuntimeError):
    """A loss became infinite or NaN; the message names the module and the epoch."""


class Trainer:
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
        scheduler: a callable from an Optimizer to a scheduler, stepped after each epoch of its
            module (a shared head's after each epoch). ReduceLROnPlateau is given the module's loss.
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
        evaluate_every: int = 1,
        seed: int = 0,
    ) -> None:
        for name, value in (("accumulate", accumulate), ("evaluate_every", evaluate_every)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, but got {value!r}.")
        if clip_norm is not None and not clip_norm > 0:
            raise ValueError(f"clip_norm must be positive, or None, but got {clip_norm!r}.")
        if autocast not in (None, torch.bfloat16, torch.float16):
            raise ValueError(
                f"autocast must be torch.bfloat16, torch.float16 or None, but got {autocast!r}."
            )
        self.network = network
        self.regime = regime
        self.transport = transport
        self.evaluate_every = evaluate_every
        self.seed = seed
        modules = [(len(network), network.whole())] if regime == "end-to-end" else network.trained
        numbers = [number for number, _ in modules]
        self.phases: list[Phase] = schedule(regime, epochs_of(epochs, numbers), laps)

        parameter = next(network.parameters(), None)
        here = torch.device("cpu") if parameter is None else parameter.device
        self.device = here if device is None else torch.device(device)
        network.to(self.device)
        self.channels_last = channels_last
        if channels_last:
            network.to(memory_format=torch.channels_last)

        criteria = criteria_of(criterion, numbers, self.device)
        self.weights = self._start(transport, modules)
        shared = self._shared_parameters()
        shared_optimizer = [build_optimizer(optimizer, shared, "the shared head")] if shared else []
        taken = {id(p) for p in shared}
        self.steps: list[LocalStep] = []
        for (number, module), loss in zip(modules, criteria, strict=True):
            own = [p for p in module.parameters() if p.requires_grad and id(p) not in taken]
            if not own and not shared:
                raise ValueError(
                    f"Module {number} has no parameter that can be trained. Use fewer modules, or "
                    f"leave its head unfrozen."
                )
            optimizers = [build_optimizer(optimizer, own, f"module {number}")] if own else []
            penalized = self.weights is not None and number > 0
            forward = module
            if compile:
                options = {} if compile is True else dict(compile)
                forward = torch.compile(module, **options)  # type: ignore[assignment]
            self.steps.append(
                LocalStep(
                    number,
                    module,
                    loss,
                    optimizers + (shared_optimizer if number > 0 else []),
                    self.device,
                    weights=self.weights if penalized else None,
                    place=1 if regime == "end-to-end" else number,
                    reduction="mean" if transport is None else transport.reduction,
                    p=2.0 if transport is None else transport.p,
                    forward=forward,
                    autocast=autocast,
                    clip_norm=clip_norm,
                    accumulate=accumulate,
                    shared=shared if number > 0 else (),
                )
            )
        self.schedulers = Schedulers(
            scheduler,
            {
                step.number: [o for o in step.optimizers if o not in shared_optimizer]
                for step in self.steps
            },
            shared_optimizer,
        )

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
    ) -> History:
        """Trains the network, and leaves it in evaluation mode.

        Args:
            train: re-iterable of (images [N, C, H, W] float, labels [N] int64).
            test: evaluated to be reported.
            validation: evaluated to choose the best module.
            on_epoch: called after each epoch with its record.
            on_step: called after each batch with the numbers of epoch and batch, from 1.

        Returns:
            What was measured, per epoch.

        Raises:
            ValueError: an empty set, images or labels that do not fit the network, an encoder that
                is frozen before it was calibrated, a transport cost without any energy.
            DivergenceError: a loss became infinite or NaN.
        """
        feeds = [
            None if loader is None else self._feed(loader, name)
            for loader, name in ((train, "training"), (test, "test"), (validation, "validation"))
        ]
        assert feeds[0] is not None
        encoder = self.network.encoder
        if isinstance(encoder, FrozenEncoder) and not encoder.calibrated:
            raise ValueError(
                "A frozen encoder needs the statistics of its batch normalizations before "
                "training, but they are as freshly built. Call network.calibrate(loader) with the "
                "training images, or load a pretrained encoder."
            )
        records: list[EpochRecord] = []
        with self._seeded():
            for epoch, phase in enumerate(self.phases, 1):
                record = self._epoch(epoch, phase, feeds[0], feeds[1], feeds[2], on_step)
                records.append(record)
                if on_epoch is not None:
                    on_epoch(record)
        return History(tuple(records))

    def evaluate(self, loader: Loader) -> Evaluation:
        """Accuracy and loss of all modules on a data set; end to end, of the last one only.

        The network is left in evaluation mode.

        Raises:
            ValueError: an empty set, or images or labels that do not fit the network.
        """
        return self._evaluate(self._feed(loader, "evaluation"))

    def _epoch(
        self,
        epoch: int,
        phase: Phase,
        train: Feed,
        test: Feed | None,
        validation: Feed | None,
        on_step: Callable[[int, int], None] | None,
    ) -> EpochRecord:
        started = time.perf_counter()
        active = [step for step in self.steps if step.number in phase.active]
        self.network.eval()
        for step in active:
            step.module.train()
            step.meter.reset()
        train_epoch(
            self.steps,
            phase.active,
            self._front,
            train,
            None if on_step is None else lambda batch: on_step(epoch, batch),
        )
        sums = torch.stack([step.meter.sums for step in active]).tolist()
        loss, cost, accuracy = {}, {}, {}
        for step, (criterion, energy, correct) in zip(active, sums, strict=True):
            number, samples = step.number, step.meter.samples
            loss[number], accuracy[number] = criterion / samples, correct / samples
            if step.weights is not None:
                cost[number] = energy / samples
            if not math.isfinite(criterion + energy):
                raise DivergenceError(
                    f"Module {number} diverged in epoch {epoch}: its loss is {criterion / samples} "
                    f"and its transport cost {energy / samples}. Lower the learning rate, raise "
                    f"tau, or bound the gradients with clip_norm."
                )
        seconds = time.perf_counter() - started
        rates = {s.number: float(s.optimizers[0].param_groups[0]["lr"]) for s in active}
        self.schedulers.step(loss)
        weights = {} if self.weights is None else dict(enumerate(self.weights.current()))
        due = epoch % self.evaluate_every == 0 or epoch == len(self.phases)
        return EpochRecord(
            epoch=epoch,
            lap=phase.lap,
            trained=phase.active,
            train_loss=loss,
            train_accuracy=accuracy,
            cost=cost,
            weight={s.number: weights[s.place - 1] for s in active if s.weights is not None},
            learning_rate=rates,
            test=self._evaluate(test) if due and test is not None else None,
            validation=self._evaluate(validation) if due and validation is not None else None,
            seconds=seconds,
        )

    def _evaluate(self, feed: Feed) -> Evaluation:
        return evaluate(self.network, self.steps, feed, whole=self.regime == "end-to-end")

    @torch.no_grad()
    def _front(self, images: Tensor) -> Tensor:
        """The frozen encoder, or the identity."""
        if not isinstance(self.network.encoder, FrozenEncoder):
            return images
        with self.steps[0].precision():
            features: Tensor = self.network.encoder(images)
        return features

    def _feed(self, loader: Loader, name: str) -> Feed:
        network = self.network
        channels_last = self.channels_last and len(network.input_shape) == 3
        return Feed(
            loader, name, network.input_shape, network.num_classes, self.device, channels_last
        )

    def _start(
        self,
        transport: Transport | Multipliers | None,
        modules: Sequence[tuple[int, GreedyModule]],
    ) -> Weights | None:
        if transport is None:
            return None
        whole = self.regime == "end-to-end"
        if whole and isinstance(transport, Transport) and transport.double:
            raise ValueError(
                "End to end the network is one module, so that tau cannot double in its second "
                "half. Use Transport(tau) without double."
            )
        for number, module in modules:
            if number > 0 and module.energy_terms == 0:
                raise ValueError(
                    f"A transport cost needs energies, but module {number} has no regularized "
                    f"block. Split with energy='displacement' or 'module', or train with "
                    f"transport=None."
                )
        return transport.start(1 if whole else len(self.network), self.device)

    def _shared_parameters(self) -> list[nn.Parameter]:
        if self.regime == "end-to-end" or not self.network.head_is_shared:
            return []
        return [p for p in self.network[0].head.parameters() if p.requires_grad]

    @contextmanager
    def _seeded(self) -> Iterator[None]:
        cuda = self.device.type == "cuda"
        with torch.random.fork_rng(devices=[self.device] if cuda else []):
            torch.manual_seed(self.seed)
            yield
