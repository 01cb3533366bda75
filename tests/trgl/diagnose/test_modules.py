"""Diagnoses of networks whose modules are known maps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small import CLASSES, SHAPE, batches, differing, network, state
from torch import Tensor, nn

import trgl
from trgl.diagnose import diagnose, draw, lipschitz_ratios, separability, transport_gap
from trgl.strict_json import to_json


class Map(nn.Module):
    """x ↦ factor · x + shift, in place where that is asked for."""

    def __init__(self, factor: float, shift: float, inplace: bool = False) -> None:
        super().__init__()
        self.factor, self.shift, self.inplace = factor, shift, inplace

    def forward(self, x: Tensor) -> Tensor:
        return (
            x.mul_(self.factor).add_(self.shift) if self.inplace else self.factor * x + self.shift
        )


class Roll(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.roll(1, 0)


def modules_of(*bodies: nn.Module, shape: tuple[int, ...] = (2, 4, 4)) -> trgl.GreedyNetwork:
    parts = []
    for number, body in enumerate(bodies):
        head = nn.Sequential(nn.Flatten(), nn.LazyLinear(CLASSES))
        parts.append(trgl.GreedyModule(trgl.Body([(f"layer{number}", body)]), head))
    return trgl.GreedyNetwork(parts, input_shape=shape, num_classes=CLASSES)


def images(count: int, seed: int = 0, shape: tuple[int, ...] = (2, 4, 4)) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("inplace", [False, True])
def test_modules_and_their_composition_are_measured(inplace: bool) -> None:
    x = images(30)
    before = x.clone()
    found = diagnose(modules_of(Map(2, 0, inplace), Map(1, 3, inplace)), x)
    assert torch.equal(x, before)
    entering, first, second = found.modules
    assert (entering.module, entering.transport, entering.separability) == (0, None, None)
    assert first.transport is not None
    assert first.transport.mean_squared_displacement == pytest.approx(
        float(x.square().flatten(1).sum(1).mean()), rel=1e-6
    )
    assert first.lipschitz is not None
    assert first.lipschitz.quantiles[1.0] == pytest.approx(2.0)
    assert second.transport is not None
    assert second.transport.mean_squared_displacement == pytest.approx(9 * 32, rel=1e-6)
    assert second.lipschitz is not None
    assert second.lipschitz.quantiles[0.5] == pytest.approx(1.0)
    assert second.composition == transport_gap(x, 2 * x + 3)
    assert second.since == 1
    assert second.composition_lipschitz is not None
    assert second.composition_lipschitz.quantiles[0.0] == pytest.approx(2.0)


def test_optimal_modules_may_compose_to_a_map_that_is_not_optimal() -> None:
    # each turns by 20 degrees, which is optimal on few samples; four of them turn by 80
    angle = torch.tensor(torch.pi / 9)
    turn = torch.stack(
        [torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])]
    )

    class Turn(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x @ turn

    corners = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]])
    found = diagnose(modules_of(*[Turn() for _ in range(4)], shape=(2,)), corners)
    singles = [m.transport.optimality for m in found.modules[1:] if m.transport]
    together = [m.composition.optimality for m in found.modules[1:] if m.composition]
    assert singles == pytest.approx([1.0] * 4)
    assert together[:2] == pytest.approx([1.0, 1.0])
    assert together[3] < 0.2


def test_where_shapes_differ_there_is_no_displacement_and_a_reason() -> None:
    found = diagnose(modules_of(Map(2, 0), nn.AvgPool2d(2), Map(1, 1), Roll()), images(20))
    _, _, pooled, shifted, rolled = found.modules
    assert (pooled.transport, pooled.composition, pooled.since) == (None, None, None)
    assert "changes the shape from 2x4x4 to 2x2x2" in pooled.note
    assert pooled.lipschitz is not None  # distances can be compared all the same
    assert (shifted.since, rolled.since) == (3, 3)
    assert shifted.composition == shifted.transport
    assert rolled.transport is not None
    assert rolled.transport.optimality == pytest.approx(0.0, abs=1e-12)
    assert rolled.composition is not None
    assert rolled.composition != rolled.transport


@pytest.mark.parametrize("freeze", [False, True])
def test_a_real_network_is_measured_as_it_answers_and_left_as_it_was(freeze: bool) -> None:
    split = network(modules=3, blocks=3, encoder="stem", freeze_encoder=freeze).train()
    x, labels = draw(batches(), 24, seed=0)
    weights, modes = state(split), [m.training for m in split.modules()]
    seen: list[tuple[int, int]] = []
    found = diagnose(
        split, x, ((x, labels), (x, labels)), batch=7, progress=lambda *counts: seen.append(counts)
    )
    assert differing(state(split), weights) == []
    assert [m.training for m in split.modules()] == modes
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert (found.samples, found.probe_train, found.probe_test) == (24, 24, 24)
    split.eval()
    with torch.no_grad():
        front = split.encoder if freeze else split.encoder.body
        entering = front(x)
        first = split[0].body(entering)
        second = split[1].body(first)
    assert found.modules[0].output_shape == (4, *SHAPE[1:])
    assert found.modules[1].transport.mean_squared_displacement == pytest.approx(
        transport_gap(entering, first).mean_squared_displacement, rel=1e-4
    )
    assert found.modules[2].composition_lipschitz.quantiles[0.5] == pytest.approx(
        lipschitz_ratios(entering, second).quantiles[0.5], rel=1e-4
    )
    assert all(m.separability.train_accuracy > 0.9 for m in found.modules)
    assert '"0.5": ' in to_json(found.as_dict())


def test_wrong_samples_are_refused() -> None:
    split = modules_of(Map(2, 0))
    with pytest.raises(ValueError, match="received 1; take at least 2"):
        diagnose(split, images(1))
    with pytest.raises(ValueError, match=r"shape \[2, 4, 4\], received \[3, 4, 4\]"):
        diagnose(split, images(5, shape=(3, 4, 4)))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused_wherever_it_comes_from(value: float) -> None:
    labels = torch.arange(6) % 2
    bad = images(6)
    bad[4, 0, 0, 0] = value
    # the second module changes the shape, the last one keeps it
    good = modules_of(Map(2, 0), nn.AvgPool2d(2), Map(1, 1))
    with pytest.raises(
        ValueError, match="what enters module 1 must be finite, received NaN or inf"
    ):
        diagnose(good, bad)
    for probe in ((bad, images(6)), (images(6), bad)):
        with pytest.raises(ValueError, match="what enters module 1 must be finite"):
            diagnose(good, images(6), ((probe[0], labels), (probe[1], labels)))
    for number, bodies in (
        (1, (Map(value, 0),)),
        (1, (nn.Sequential(nn.AvgPool2d(2), Map(value, 0)),)),
        (2, (Map(2, 0), nn.Sequential(nn.AvgPool2d(2), Map(value, 0)))),
    ):
        split = modules_of(*bodies).train()
        with pytest.raises(ValueError, match=f"what module {number} puts out must be finite"):
            diagnose(split, images(6))
        assert split.training
    with pytest.raises(ValueError, match="inputs and outputs of a map must be finite"):
        lipschitz_ratios(images(6), bad)
    for train, test in ((bad, images(6)), (images(6), bad)):
        with pytest.raises(ValueError, match="that a linear probe sees must be finite"):
            separability(train, labels, test, labels)


class Elsewhere(Tensor):
    """A tensor that meets those on the CPU after ``cpu`` or ``to`` only, as one on a GPU does.

    It stands for a GPU where there is none.
    """

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.cpu or func is Tensor.to:
            return func(args[0].as_subclass(Tensor), *args[1:], **kwargs)
        if func is Tensor.numpy:
            raise TypeError("can't convert a tensor that is elsewhere to numpy")
        given = [*args, *kwargs.values()]
        if any(type(a) is Tensor and a.dim() for a in given):
            raise RuntimeError(f"{func} received tensors here and elsewhere")
        return super().__torch_function__(func, types, args, kwargs)


def elsewhere(x: Tensor) -> Tensor:
    return x.as_subclass(Elsewhere)


def test_images_and_labels_may_be_on_another_device() -> None:
    x, labels = images(20), torch.arange(20) % CLASSES
    there, labels_there = elsewhere(x), elsewhere(labels)
    with pytest.raises(RuntimeError, match="here and elsewhere"):
        there + x
    split = modules_of(Map(2, 0), nn.AvgPool2d(2), Map(1, 1))
    probe = (there, labels_there), (there, labels_there)
    expected = diagnose(split, x, ((x, labels), (x, labels)))
    assert diagnose(split, there, probe) == expected
    assert diagnose(split, there, ((x, labels), (x, labels))) == expected
    y = 2 * x.roll(1, 0)
    assert transport_gap(there, elsewhere(y)) == transport_gap(x, y)
    assert lipschitz_ratios(there, elsewhere(y)) == lipschitz_ratios(x, y)
    assert separability(there, labels_there, elsewhere(y), labels_there) == separability(
        x, labels, y, labels
    )


def test_samples_are_drawn_from_any_loader() -> None:
    loader = batches(count=4, size=8)
    everything = torch.cat([x for x, _ in loader])
    x, labels = draw(loader, 10, seed=3)
    assert x.shape == (10, *SHAPE)
    places = [int((everything == image).flatten(1).all(1).nonzero()) for image in x]
    assert places == sorted(set(places))
    assert torch.equal(labels, torch.cat([y for _, y in loader])[places])
    assert torch.equal(draw(loader, 10, seed=3)[0], x)
    assert not torch.equal(draw(loader, 10, seed=4)[0], x)
    assert len(draw(loader, 99, seed=0)[0]) == 32
    with pytest.raises(ValueError, match="empty loader"):
        draw([], 5, seed=0)


def test_batches_as_they_are_give_a_part_without_a_pass() -> None:
    digits = trgl.data.load("digits")
    loader = trgl.data.Batches(digits.x_test, digits.y_test, 100)
    x, labels = draw(loader, 50, seed=0)
    assert len(x) == len(labels) == 50
    assert loader.epoch == 0
    shuffled = trgl.data.Batches(digits.x_test, digits.y_test, 100, shuffle=True)
    draw(shuffled, 50, seed=0)
    assert shuffled.epoch == 1  # one that knows its size is passed once
