"""The memory of training steps, predicted before a run: they run on tensors without data."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from trgl_kernels.boundary.scope import current

from . import per_module
from .memory.fake import Fakes, place_of
from .memory.live import LiveBytes
from .memory.saved import entering, images_for
from .network import GreedyNetwork
from .per_module import OptimizerBuilder
from .step import LocalStep
from .transport import Multipliers, Transport


@dataclass(frozen=True)
class Peak:
    """The most bytes that live at a time during one module's step.

    Args:
        number: of the module; of the last one for end-to-end training.
        activations: of all storages except parameters, buffers, their gradients and the
            optimizer's state. The batch counts, and so do what crosses between modules and the
            temporaries of forward pass, backward pass and optimizer.
        total: of all storages, of the other modules too.
    """

    number: int
    activations: int
    total: int


def sgd(parameters: list[nn.Parameter]) -> Optimizer:
    """SGD with momentum and weight decay, whose memory is that of the papers' settings."""
    return torch.optim.SGD(parameters, lr=1e-3, momentum=0.9, weight_decay=1e-4)


def predict_steps(
    network: GreedyNetwork,
    batch: int,
    *,
    regime: str = "parallel",
    transport: Transport | Multipliers | None = None,
    optimizer: OptimizerBuilder = sgd,
    autocast: torch.dtype | None = None,
) -> list[Peak]:
    """Predicts the peak of every module's step on one batch, by running the trainer's own steps.

    It is that of any batch but the first, in which optimizers have no state yet. Nothing is
    computed, and nothing is allocated: the batch may be of any size. Scratch that a library
    allocates within an operator, such as a convolution's workspace, is not in it.

    Args:
        network: in training mode or not; it is left as it is.
        batch: N ≥ 1.
        regime: "parallel" or "end-to-end".
        transport: with the penalty where it is given.
        optimizer: a callable from a list of parameters to an Optimizer, called once per module.
        autocast: bfloat16 or None.

    Raises:
        ValueError: the batch is no whole number of at least 1, or another wrong argument.
    """
    fakes = Fakes()
    entered = entering(fakes, network, batch, autocast)
    images = images_for(fakes, network, entered)
    copied = fakes.module(network)
    with fakes.mode:
        steps = steps_of(copied, regime, transport, optimizer, autocast)
        for step in steps:
            step.boundary.find = "never"  # nothing here has memory to be freed
            step.watch.off = True  # or values to be looked at
            group_updates(step.optimizers)
        labels = fakes.labels(batch, copied)
        _step_once(steps)
        present = [*copied.parameters(), *copied.buffers(), *states_of(steps)]
        sums = [step.meter.sums for step in steps]
        marks: list[int] = []
        with gradients_of(steps) as gradients, LiveBytes([*present, *sums, images, labels]) as live:
            x = entered if entered is images else entered.clone()
            for step in steps:
                marks.append(len(live.events))
                x = step(x, labels, images)
        marks.append(len(live.events))
        own = [*present, *sums, *gradients, *states_of(steps)]
    return [
        Peak(step.number, live.peak(own, a, b), live.peak((), a, b))
        for step, a, b in zip(steps, marks, marks[1:], strict=False)
    ]


def steps_of(
    network: GreedyNetwork,
    regime: str,
    transport: Transport | Multipliers | None,
    optimizer: OptimizerBuilder,
    autocast: torch.dtype | None,
) -> list[LocalStep]:
    """The trainer's steps, their modules in training mode.

    Raises:
        ValueError: another regime than "parallel" and "end-to-end", or another wrong argument.
    """
    if regime not in ("parallel", "end-to-end"):
        raise ValueError(
            f"The memory of a step is that of regime 'parallel' or 'end-to-end', but got "
            f"{regime!r}. A sequential run holds one module's step of a parallel one at a time."
        )
    whole = regime == "end-to-end"
    modules = [(len(network), network.whole())] if whole else network.trained
    device = place_of(network)[0]
    shared: list[nn.Parameter] = []
    if network.head_is_shared and not whole:
        shared = [p for p in network[0].head.parameters() if p.requires_grad]
    steps, _ = per_module.steps_of(
        modules,
        optimizer,
        per_module.criteria_of(None, [number for number, _ in modules], device),
        device,
        shared=shared,
        transport=transport,
        weights=per_module.weights_of(transport, modules, device, whole),
        whole=whole,
        autocast=autocast,
    )
    for step in steps:
        step.module.train()
        step.begin()
    return steps


def group_updates(optimizers: Sequence[Optimizer]) -> None:
    """Has optimizers update all parameters at once where they do so with those that have data.

    On a GPU that is their default; it takes temporaries of the size of all gradients.
    """
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        on_gpu = all(p.device.type == "cuda" for p in group["params"])
        default = group.get("foreach", False) is None and not group.get("fused")
        if on_gpu and default and not group.get("differentiable"):
            group["foreach"] = not isinstance(group["lr"], Tensor)


def _step_once(steps: Sequence[LocalStep]) -> None:
    """Gives the optimizers the state that they keep from their first step on."""
    for step in steps:
        for parameter in step.parameters:
            parameter.grad = torch.zeros_like(parameter)
        step.pending = 1
        step.update()


@contextmanager
def gradients_of(steps: Sequence[LocalStep]) -> Iterator[list[Tensor]]:
    """Inside, the gradients with which optimizers step go into the list, and stay alive there."""
    found: list[Tensor] = []

    def keep(optimizer: Optimizer, *_: object) -> None:
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"]]
        boundary = current()
        for gradient in gradients:
            if gradient is not None:
                found.append(gradient)
                if boundary is not None:
                    boundary.keep(gradient)

    optimizers = {id(o): o for step in steps for o in step.optimizers}.values()
    hooks = [optimizer.register_step_pre_hook(keep) for optimizer in optimizers]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def states_of(steps: Sequence[LocalStep]) -> list[Tensor]:
    """What the optimizers keep from step to step."""
    optimizers = {id(o): o for step in steps for o in step.optimizers}.values()
    return [
        value
        for optimizer in optimizers
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, Tensor)
    ]


def largest_batch(total: Callable[[int], int], limit: int, most: int = 1 << 24) -> int:
    """The largest batch N of at least 2 samples with total(N) ≤ limit; 0 where 2 do not fit.

    Bytes grow with the batch very nearly in a straight line, which says where to look; the answer
    is exact, because total(N) and total(N + 1) are both looked at.

    Args:
        total: bytes at a batch, growing with it; never asked for less than 2 samples, with which a
            BN can train.
        limit: bytes.
        most: a batch that is not exceeded.
    """
    below, at_below = 2, total(2)
    if at_below > limit:
        return 0
    above, at_above = 4, total(4)
    while at_above <= limit:
        if above >= most:
            return most
        slope = (at_above - at_below) / (above - below)
        below, at_below = above, at_above
        beyond = below + 1 + int((limit - at_below) / slope) if slope > 0 else most
        # a line may begin to rise late: not too far at once
        above = min(max(beyond, below + 1), 8 * below, most)
        at_above = total(above)
    bisect = False
    while above - below > 1:
        share = 0.5 if bisect else (limit - at_below) / (at_above - at_below)
        guess = min(max(below + int(share * (above - below)), below + 1), above - 1)
        size = total(guess)
        if size <= limit:
            below, at_below = guess, size
        else:
            above, at_above = guess, size
        bisect = not bisect
    return below
