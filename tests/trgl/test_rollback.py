"""Memory that runs out inside an optimizer: the update is taken back where state is made."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from small import batches, differing, network, sgd, state
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

import trgl
from trgl.optimizers import fused_sgd
from trgl.rollback import Rollback

OPTIMIZERS = {
    "sgd": lambda weights: SGD(weights, lr=0.1, momentum=0.9, nesterov=True),
    "plain sgd": lambda weights: SGD(weights, lr=0.1),
    "sgd fused": lambda weights: fused_sgd(weights, lr=0.1, momentum=0.9),
    "sgd foreach": lambda weights: SGD(weights, lr=0.1, momentum=0.9, foreach=True),
    "adam": lambda weights: Adam(weights, lr=0.1, amsgrad=True),
    "adamw fused": lambda weights: AdamW(weights, lr=0.1, fused=True),
    "adamw foreach": lambda weights: AdamW(weights, lr=0.1, foreach=True),
}


class Full(TorchDispatchMode):
    """Memory runs out in one of the operators, counted from 1, on tensors like the weights."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.left = number

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.left -= 1
        if self.left == 0:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return func(*args, **(kwargs or {}))


class Sides:
    """Two optimizers of one module, such as its own and that of a shared head, and a rollback."""

    def __init__(self, build: Callable[[Any], Optimizer]) -> None:
        torch.manual_seed(0)
        self.weights = [nn.Parameter(torch.randn(5, 3)) for _ in range(4)]
        self.optimizers = [build(self.weights[:3]), build(self.weights[3:])]
        self.rollback = Rollback(self.optimizers, self.weights)
        self.gradients(self.weights[:2] + self.weights[3:], seed=1)

    def gradients(self, weights: list[nn.Parameter], seed: int) -> None:
        torch.manual_seed(seed)
        for weight in weights:
            weight.grad = torch.randn_like(weight)

    def update(self) -> None:
        with self.rollback():
            for optimizer in self.optimizers:
                optimizer.step()

    def everything(self) -> dict[str, Tensor]:
        found = {f"weight {n}": w.detach().clone() for n, w in enumerate(self.weights)}
        for number, weight in enumerate(self.weights):
            for optimizer in self.optimizers:
                for key, value in optimizer.state.get(weight, {}).items():
                    if value is not None:
                        found[f"{key} {number}"] = torch.as_tensor(value).clone()
        return found


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("known", ["nothing", "the head", "all but one"])
def test_wherever_memory_runs_out_the_update_is_whole_or_not_done(name: str, known: str) -> None:
    def prepared() -> Sides:
        sides = Sides(OPTIMIZERS[name])
        if known == "the head":  # another module has stepped it
            sides.optimizers[1].step()
        elif known == "all but one":
            sides.update()
            sides.gradients(sides.weights, seed=2)
        return sides

    whole = prepared()
    whole.update()
    for number in itertools.count(1):
        sides = prepared()
        before = sides.everything()
        full = Full(number)
        try:
            with full:
                sides.update()
        except torch.OutOfMemoryError:
            assert not sides.rollback.broken
            assert differing(sides.everything(), before) == []
            sides.update()  # with room again
        assert differing(sides.everything(), whole.everything()) == []
        if full.left > 0:
            break
    assert number > 4  # it ran out in several places


@pytest.mark.parametrize("name", ["sgd fused", "adamw fused"])
def test_later_updates_of_fused_optimizers_allocate_nothing(name: str) -> None:
    torch.manual_seed(0)
    weights = [nn.Parameter(torch.randn(128, 128)) for _ in range(4)]
    optimizer = OPTIMIZERS[name](weights)
    rollback = Rollback([optimizer], weights)
    taken = []
    for _ in range(2):
        for weight in weights:
            weight.grad = torch.randn_like(weight)
        with (
            profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler,
            rollback(),
        ):
            optimizer.step()
        events = profiler.profiler.kineto_results.events()
        taken.append(max((e.nbytes() for e in events if e.name() == "[memory]"), default=0))
    assert taken[0] >= weights[0].nbytes  # its state, and the copies
    assert taken[1] < 64  # a number for each weight at most


def test_an_update_that_cannot_be_taken_back_says_so() -> None:
    sides = Sides(OPTIMIZERS["adamw foreach"])
    sides.update()
    with pytest.raises(torch.OutOfMemoryError), Full(4):
        sides.update()
    assert sides.rollback.broken
    sides.update()
    assert not sides.rollback.broken


@pytest.mark.parametrize("regime", ["parallel", "end-to-end"])
@pytest.mark.parametrize("shared", [False, True])
def test_a_module_whose_first_update_finds_no_memory_is_as_it_was(
    regime: str, shared: bool
) -> None:
    net = network(shared_head=shared)
    before = {key: value.clone() for key, value in state(net).items()}

    def optimizer(weights: list[nn.Parameter]) -> Optimizer:
        made = sgd(weights)
        made.register_step_post_hook(ran_out)  # when it has done its work
        return made

    def ran_out(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    trainer = trgl.Trainer(net, optimizer=optimizer, epochs=1, regime=regime)
    with pytest.raises(trgl.DeviceMemoryError, match="weights are as they were") as caught:
        trainer.fit(batches())
    assert not caught.value.updating
    weights = [name for name, _ in net.named_parameters()]
    assert differing({n: state(net)[n] for n in weights}, {n: before[n] for n in weights}) == []


def test_fused_sgd_takes_weights_whose_first_gradient_comes_late() -> None:
    sides = [Sides(OPTIMIZERS[name]) for name in ("sgd fused", "sgd foreach")]
    for seed in range(3):  # the third weight has none in the first update
        for side in sides:
            if seed:
                side.gradients(side.weights, seed)
            side.update()
    fused, plain = (side.everything() for side in sides)
    assert fused.keys() == plain.keys()
    for name, value in fused.items():
        torch.testing.assert_close(value, plain[name], msg=name)
