"""All that decides how a training goes on: taken from its parts, and put into them."""

import copy
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .frozen import FrozenFront
from .metrics import EpochRecord
from .network import GreedyNetwork
from .regimes import Phase
from .residency import Residency
from .schedulers import Schedulers
from .step import LocalStep
from .transport import Multipliers, Transport, Weights

State = dict[str, Any]
_FORMAT = 1


@dataclass
class Cursor:
    """Where a training is, between two batches.

    Args:
        epoch: epochs that are over.
        batch: batches of the next one that are done.
        step: batches of the run that are done.
        seconds: spent training in the epoch that is begun.
        records: of the epochs that are over.
        start: generators and loader at the beginning of the epoch that is begun; None before the
            first.
        generators: at this place; None before the first batch.
        steps: of the modules, by number: what an epoch that is begun has added up; empty where
            none is begun.
        front: the batch size of the run; None before the first batch.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    seconds: float = 0.0
    records: list[EpochRecord] = field(default_factory=list)
    start: State | None = None
    generators: State | None = None
    steps: dict[int, State] = field(default_factory=dict)
    front: int | None = None


class Training:
    """The parts of a training, which a trainer builds.

    Attributes:
        network: what is trained.
        regime: a name in `trgl.regimes.REGIMES`.
        phases: its epochs.
        steps: of the modules, front to back.
        transport: how the transport cost is weighed, and `weights`, what weighs it; both None
            without a penalty.
        schedulers: of the learning rates.
        front: what is frozen in front of the modules that train.
        residency: what is on the device.
        device, autocast, evaluate_every, seed: as `trgl.Trainer` was given them.
        cursor: where the training is.
    """

    network: GreedyNetwork
    regime: str
    phases: list[Phase]
    steps: list[LocalStep]
    transport: Transport | Multipliers | None
    weights: Weights | None
    schedulers: Schedulers
    front: FrozenFront
    residency: Residency
    device: torch.device
    autocast: torch.dtype | None
    evaluate_every: int
    seed: int
    cursor: Cursor


def state_of(training: Training) -> State:
    """The state of a training that stands between two batches; its tensors are the training's."""
    return {
        "format": _FORMAT,
        "signature": _signature(training),
        "cursor": {
            **vars(training.cursor),
            "records": [record.as_dict() for record in training.cursor.records],
        },
        "network": dict(training.network.state_dict()),
        "buffers": _unsaved_buffers(training.network),
        "criteria": [
            dict(s.criterion.state_dict()) if isinstance(s.criterion, nn.Module) else {}
            for s in training.steps
        ],
        "scalers": [None if s.scaler is None else s.scaler.state_dict() for s in training.steps],
        "optimizers": [optimizer.state_dict() for optimizer in _optimizers(training)],
        "schedulers": [scheduler.state_dict() for scheduler in _schedulers(training)],
        "weights": None if training.weights is None else training.weights.state_dict(),
    }


def check_state(training: Training, state: State) -> None:
    """Holds that a state fits a training, before anything is changed.

    Raises:
        ValueError: it is something else than a state, or of another network or training.
    """
    if not isinstance(state, Mapping) or state.get("format") != _FORMAT:
        raise ValueError(
            f"A training goes on from what Trainer.state_dict gave, but got "
            f"{type(state).__name__}{'' if isinstance(state, Mapping) else f' {state!r}'} without "
            f"format {_FORMAT}. Give the state or the file of a Trainer."
        )
    ours, theirs = _signature(training), dict(state["signature"])
    done = state["cursor"]["epoch"] + (state["cursor"]["batch"] > 0)
    for signature in (ours, theirs):  # more epochs may follow now than were planned then
        signature["epochs"] = _first(signature["epochs"], done)
    for key, value in ours.items():
        if theirs.get(key, value) != value:  # states of earlier versions say less
            words = _in_words if key == "epochs" else repr
            raise ValueError(
                f"A training goes on with the arguments that it began with, but the state has "
                f"{key} {words(theirs.get(key))} where this trainer has {words(value)}. Build the "
                f"trainer as it was when the state was saved."
            )
    mine = training.network.state_dict()
    for name in sorted(mine.keys() ^ state["network"].keys()):
        where = "the state" if name in mine else "this network"
        raise ValueError(
            f"A state belongs to one network, but {where} has no {name!r}. Build and split the "
            f"model as it was when the state was saved."
        )
    for name, value in mine.items():
        found = state["network"][name]
        if isinstance(value, Tensor) and (value.shape, value.dtype) != (found.shape, found.dtype):
            raise ValueError(
                f"A state belongs to one network, but {name!r} has {list(found.shape)} "
                f"{found.dtype} in it and {list(value.shape)} {value.dtype} here. Build and split "
                f"the model as it was when the state was saved."
            )

    for step, theirs in zip(training.steps, state["criteria"], strict=True):
        mine = step.criterion.state_dict() if isinstance(step.criterion, nn.Module) else {}
        shapes = [{name: list(t.shape) for name, t in one.items()} for one in (mine, theirs)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"A training goes on with the criterion that it began with, but that of module "
                f"{step.number} holds {shapes[1] or 'nothing'} in the state and "
                f"{shapes[0] or 'nothing'} here. Build the trainer as it was when the state was "
                f"saved."
            )


def load_state(training: Training, state: State) -> None:
    """Puts a state that was checked into a training."""
    network = training.network
    training.residency.forget()
    network.load_state_dict(state["network"])
    buffers = dict(network.named_buffers())
    for name, value in state["buffers"].items():
        if name in buffers:
            with torch.no_grad():
                buffers[name].copy_(value)
    for step, criterion, scaler in zip(
        training.steps, state["criteria"], state["scalers"], strict=True
    ):
        if isinstance(step.criterion, nn.Module):
            step.criterion.load_state_dict(criterion)
        if step.scaler is not None and scaler is not None:
            step.scaler.load_state_dict(scaler)
    for optimizer, saved in zip(_optimizers(training), state["optimizers"], strict=True):
        _load_optimizer(optimizer, copy.deepcopy(saved))
    for scheduler, saved in zip(_schedulers(training), state["schedulers"], strict=True):
        scheduler.load_state_dict(copy.deepcopy(saved))
    if training.weights is not None:
        training.weights.load_state_dict(state["weights"])
    records = [EpochRecord.from_dict(record) for record in state["cursor"]["records"]]
    training.cursor = Cursor(**{**state["cursor"], "records": records})


def step_state(step: LocalStep) -> State:
    """What a module's epoch has added up: sums, and gradients that wait for their optimizer."""
    waiting = step.pending > 0
    return {
        "sums": step.meter.sums.clone(),
        "samples": step.meter.samples,
        "pending": step.pending,
        "gradients": [p.grad for p in step.parameters] if waiting else [],
        "held": list(step.held),
    }


def load_step(step: LocalStep, state: State) -> None:
    """Puts it back, after `LocalStep.begin`."""
    step.meter.sums.copy_(state["sums"])
    step.meter.samples = state["samples"]
    step.pending = state["pending"]
    device = step.meter.sums.device
    if step.pending and step.scaler is not None:
        step.scaler.scale(torch.zeros((), device=device))  # it makes its scale when it is used
    for parameter, gradient in zip(step.parameters, state["gradients"], strict=False):
        parameter.grad = None if gradient is None else gradient.to(device, copy=True)
    step.held = [None if held is None else held.to(device, copy=True) for held in state["held"]]


def _signature(training: Training) -> State:
    steps = training.steps
    optimizers, schedulers = _optimizers(training), _schedulers(training)
    return {
        "regime": training.regime,
        "modules": [step.number for step in steps],
        "optimizers": [type(optimizer).__name__ for optimizer in optimizers],
        "parameters": [[len(g["params"]) for g in o.param_groups] for o in optimizers],
        "schedulers": [type(scheduler).__name__ for scheduler in schedulers],
        "transport": None if training.transport is None else repr(training.transport),
        "criteria": [_criterion_words(step.criterion) for step in steps],
        "accumulate": [step.accumulate for step in steps],
        "clip_norm": [step.clip_norm for step in steps],
        "autocast": str(training.autocast),
        "chunk": training.front.chunk,
        "seed": training.seed,
        "epochs": [
            [list(phase.active), phase.lap, len(list(same))]
            for phase, same in itertools.groupby(training.phases)
        ],
    }


def _criterion_words(criterion: object) -> str:
    """What tells criteria apart: the class, and the numbers and texts that it was built with."""
    if not isinstance(criterion, nn.Module):
        return str(getattr(criterion, "__qualname__", type(criterion).__name__))
    kinds = (bool, int, float, str)
    settings = {
        name: value
        for name, value in vars(criterion).items()
        if isinstance(value, kinds) and not name.startswith("_") and name != "training"
    }
    return f"{type(criterion).__name__}({', '.join(f'{k}={v!r}' for k, v in settings.items())})"


def _in_words(groups: Any) -> str:
    """Groups of equal epochs, for an error."""
    parts = [f"{size} of modules {', '.join(map(str, active))}" for active, _, size in groups]
    return f"({', then '.join(parts)})"


def _first(groups: list[list[Any]], count: int) -> list[list[Any]]:
    """Groups of equal epochs, cut off behind so many epochs."""
    found = []
    for active, lap, size in groups:
        if count > 0:
            found.append([list(active), lap, min(size, count)])
        count -= size
    return found


def _optimizers(training: Training) -> list[Optimizer]:
    """Each once, in an order that does not change."""
    found = {id(o): o for step in training.steps for o in step.optimizers}
    return list(found.values())


def _schedulers(training: Training) -> list[Any]:
    own = training.schedulers.own
    return [s for number in own for s in own[number]] + list(training.schedulers.shared)


def _unsaved_buffers(network: nn.Module) -> dict[str, Tensor]:
    """Buffers that a state_dict leaves out, but a forward pass may change."""
    saved = network.state_dict()
    return {name: value for name, value in network.named_buffers() if name not in saved}


def _load_optimizer(optimizer: Optimizer, saved: State) -> None:
    """As `load_state_dict`, which casts states to the type of their parameters: we keep theirs."""
    optimizer.load_state_dict(saved)
    ours = [p for group in optimizer.param_groups for p in group["params"]]
    theirs = [number for group in saved["param_groups"] for number in group["params"]]
    if saved["state"]:
        optimizer._opt_called = True  # type: ignore[attr-defined]  # else schedulers warn
    for parameter, number in zip(ours, theirs, strict=True):
        loaded = optimizer.state.get(parameter, {})
        for key, value in saved["state"].get(number, {}).items():
            if isinstance(value, Tensor) and loaded[key].dtype != value.dtype:
                loaded[key] = value.to(loaded[key].device, copy=True)
