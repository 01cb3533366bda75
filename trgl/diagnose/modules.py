"""The measurements of every module of a trained network, front to back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trgl.body import Body
from trgl.diagnose.distances import measurable
from trgl.diagnose.lipschitz import LipschitzRatios, lipschitz_ratios
from trgl.diagnose.separability import Separability, separability
from trgl.diagnose.transport import TransportGap, transport_gap
from trgl.network import GreedyModule, GreedyNetwork

Samples = tuple[Tensor, Tensor]  # [N, *] and int64 [N]


@dataclass(frozen=True)
class ModuleDiagnosis:
    """What was measured of one module T_k, and of the composition of modules that ends with it.

    Attributes:
        module: its number k; 0 is what enters module 1: the images, or an encoder's output.
        input_shape: of one sample.
        output_shape: of one sample.
        separability: of the module's output; None where it was not asked for.
        transport: T_k against the optimal transport between its inputs and outputs; None where the
            shapes differ, and for module 0.
        since: number of the first module of the composition: 1, or the first behind the last module
            that changed the shape; None where the module changes it.
        composition: T_k ∘ … ∘ T_since against the optimal transport between the inputs of module
            `since` and the outputs of this one.
        lipschitz: of T_k; None for module 0 and where all its inputs are one point.
        composition_lipschitz: of T_k ∘ … ∘ T_1, from what enters module 1.
        note: why something is missing; empty where nothing is.
    """

    module: int
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    separability: Separability | None = None
    transport: TransportGap | None = None
    since: int | None = None
    composition: TransportGap | None = None
    lipschitz: LipschitzRatios | None = None
    composition_lipschitz: LipschitzRatios | None = None
    note: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """All modules of a network, and on how many samples they were measured.

    Attributes:
        modules: from 0 on.
        samples: on which displacements and ratios of distances were measured.
        probe_train: on which the linear probes were fitted.
        probe_test: on which they were tested.
    """

    modules: tuple[ModuleDiagnosis, ...]
    samples: int
    probe_train: int
    probe_test: int

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON can hold them."""
        return dataclasses.asdict(self)


def diagnose(
    network: GreedyNetwork,
    samples: Tensor,  # [N, *input_shape]
    probe: tuple[Samples, Samples] | None = None,
    *,
    batch: int = 256,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Diagnosis:
    """Measure every module in evaluation mode; the network keeps its mode.

    Args:
        network: trained, on any device.
        samples: images on which displacements and ratios of distances are measured, on any device;
            the exact assignment takes a time cubic in N.
        probe: images and labels to fit linear probes on, and others to test them on, on any device;
            None leaves the probes out.
        batch: images in one pass, at least 1.
        progress: called after each module with the number of those done and of all.

    Raises:
        ValueError: no samples, another shape than the network's, features that are not finite, or
            training samples of fewer than two classes.

    Source: NeurIPS 2023, sections 2.2, 2.3 and 5.
    """
    if len(samples) < 2:
        raise ValueError(
            f"a diagnosis compares samples with each other, received {len(samples)}; take at least "
            "2, better 500."
        )
    if tuple(samples.shape[1:]) != network.input_shape:
        raise ValueError(
            f"the network takes images of shape {list(network.input_shape)}, received "
            f"{list(samples.shape[1:])}; take the images that it was trained on."
        )
    front: Body | None = None
    if network.encoder is not None:
        encoder = network.encoder
        front = encoder.body if isinstance(encoder, GreedyModule) else encoder
    sets = [samples] if probe is None else [samples, probe[0][0], probe[1][0]]
    labels = None if probe is None else (probe[0][1], probe[1][1])
    found = []
    with _evaluating(network):
        entering = [x if front is None else _pass(front, x, batch) for x in sets]
        entering = list(measurable("what enters module 1", *entering))
        raw, first = samples, entering[0]
        found.append(
            ModuleDiagnosis(
                0, _shape(raw), _shape(first), None if labels is None else _probe(entering, labels)
            )
        )
        progress(1, len(network) + 1)
        start, since = first, 1
        for number, module in enumerate(network, 1):
            leaving = [_pass(module.body, x, batch) for x in entering]
            leaving = list(measurable(f"what module {number} puts out", *leaving))
            x, y = entering[0], leaving[0]
            kept = x.shape == y.shape
            if not kept:
                start, since = y, number + 1
            single = transport_gap(x, y) if kept else None
            found.append(
                ModuleDiagnosis(
                    module=number,
                    input_shape=_shape(x),
                    output_shape=_shape(y),
                    separability=None if labels is None else _probe(leaving, labels),
                    transport=single,
                    since=since if kept else None,
                    composition=(single if since == number else transport_gap(start, y))
                    if kept
                    else None,
                    lipschitz=lipschitz_ratios(x, y),
                    composition_lipschitz=lipschitz_ratios(first, y),
                    note="" if kept else _note(x, y),
                )
            )
            entering = leaving
            progress(number + 1, len(network) + 1)
    sizes = (0, 0) if labels is None else (len(labels[0]), len(labels[1]))
    return Diagnosis(tuple(found), len(samples), *sizes)


def _note(x: Tensor, y: Tensor) -> str:
    return (
        f"changes the shape from {'x'.join(map(str, _shape(x)))} to "
        f"{'x'.join(map(str, _shape(y)))}: it has no displacement"
    )


def _shape(x: Tensor) -> tuple[int, ...]:
    return tuple(x.shape[1:])


def _probe(features: list[Tensor], labels: tuple[Tensor, Tensor]) -> Separability:
    return separability(features[1], labels[0], features[2], labels[1])


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards every layer is in its own mode again."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _pass(body: Body, x: Tensor, batch: int) -> Tensor:
    """What a body makes of all of x, on the CPU."""
    device = next((p.device for p in body.parameters()), torch.device("cpu"))
    # a copy: a body that works in place must not change what it is compared with
    return torch.cat([body(part.to(device, copy=True)).cpu() for part in x.split(batch)])
