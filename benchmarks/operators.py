"""An operator's races: forward and backward, and the backward alone; every contestant verified."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from oracle import relative_error
from race import Contestant, race
from torch import Tensor

BOTH, BACKWARD = "forward + backward", "backward"

Operator = Callable[..., Any]  # gives a tensor, or several with the energy last
OURS = ("ours", "penalty_off")
# What may differ from float64, in norm: ours, then rivals' maps and vectors. PyTorch's BN in
# channels_last is off by 8e-5; in bfloat16 its LayerNorm adds the gradients of γ and β up in that
# type, and is off by 10 % after 12,544 rows.
BOUNDS = {torch.float32: (1e-5, 1e-3, 1e-3), torch.bfloat16: (1e-2, 1e-2, 0.5)}


def compiled(function: Operator) -> Operator:
    """What torch.compile makes of a function for one shape.

    Without these the second shape in a process gets code for any shape, which is slower.
    """
    torch.compiler.reset()
    return torch.compile(function, fullgraph=True, dynamic=False)


def with_statistics(function: Operator, channels: int) -> Operator:
    """A function that normalizes, with running statistics of its own as the last arguments."""
    running = torch.zeros(channels), torch.ones(channels)
    return lambda *inputs: function(*inputs, *running)


def outputs_of(function: Operator, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    outputs = function(*inputs)
    return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)


def results(
    function: Operator, inputs: Sequence[Tensor], cotangents: Sequence[Tensor], count: int
) -> list[Tensor]:
    """The first `count` outputs, and the gradients of the inputs through them."""
    outputs = outputs_of(function, inputs)[:count]
    grads = torch.autograd.grad(outputs, inputs, cotangents[:count])
    return [t.detach() for t in (*outputs, *grads)]


def verify(
    contestants: Mapping[str, Operator],
    definition: Operator,
    inputs: Sequence[Tensor],
    cotangents: Sequence[Tensor],
) -> None:
    """Holds outputs and gradients of each contestant against the definition in float64.

    One that computes no energy gives one output less, and has the gradients of the others.
    """
    wide = [t.detach().double().requires_grad_() for t in inputs]
    slopes = [t.double() for t in cotangents]
    exact: dict[int, list[Tensor]] = {}
    for name, function in contestants.items():
        count = len(outputs_of(function, inputs))
        if count not in exact:
            exact[count] = results(definition, wide, slopes, count)
        found = results(function, inputs, cotangents, count)
        for number, (value, true) in enumerate(zip(found, exact[count], strict=True)):
            ours, maps, vectors = BOUNDS[inputs[0].dtype]
            bound = ours if name in OURS else vectors if true.dim() == 1 else maps
            error = relative_error(value, true)
            assert error < bound, f"{name}, result {number}: {error}"


def timed(
    function: Operator, inputs: Sequence[Tensor], cotangents: Sequence[Tensor], part: str
) -> Contestant:
    """One call of the part that is timed."""
    count = len(outputs_of(function, inputs))
    slopes = cotangents[:count]
    if part == BACKWARD:
        done = outputs_of(function, inputs)
        return lambda: torch.autograd.grad(done, inputs, slopes, retain_graph=True)

    def both() -> object:
        outputs = outputs_of(function, inputs)
        return outputs, torch.autograd.grad(outputs, inputs, slopes)

    return both


def race_operator(
    benchmark: Any,
    op: str,
    rivals: Mapping[str, Operator],
    definition: Operator,
    inputs: Sequence[Tensor],
    cotangents: Sequence[Tensor],
    part: str,
    maps: Mapping[str, int],
) -> None:
    """Verifies an operator and its rivals, then races them.

    Args:
        benchmark: pytest-benchmark's fixture.
        op: the operator's name, for the table.
        rivals: "ours" and what it is measured against, by name. "compiled" runs forward and
            backward only: torch.compile's backward cannot run twice.
        definition: the same in plain PyTorch, for float64.
        inputs: what all are given; gradients are taken for each.
        cotangents: gradients of the outputs.
        part: what is timed, forward and backward or the backward alone.
        maps: how many maps of the size of the first input each part must read and write.
    """
    rivals = {name: f for name, f in rivals.items() if part == BOTH or name != "compiled"}
    verify(rivals, definition, inputs, cotangents)
    contestants = {name: timed(f, inputs, cotangents, part) for name, f in rivals.items()}
    ours = contestants.pop("ours")
    race(benchmark, ours, contestants, op=op, part=part, x=inputs[0], maps=maps[part])
