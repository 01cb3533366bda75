"""Memory that runs out inside an optimizer: the update is taken back where state is made."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small import batches, differing, network, sgd, state
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import keystr, tree_flatten_with_path

import trgl
from trgl.rollback import Rollback


class Counting(Optimizer):
    """An optimizer that counts in its state and in a group, and keeps lists of tensors."""

    def __init__(self, weights: Any) -> None:
        super().__init__(weights, {"lr": torch.tensor(0.1), "count": 0})
        self.state["count"] = 0

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        self.state["count"] += 1
        for group in self.param_groups:
            group["count"] += 1
            group["begun"] = True
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["history"] = [weight.grad.clone()]
                state["history"][0].add_(weight.grad)
                weight.sub_(group["lr"] * state["history"][0] / (self.state["count"] + 1))
            group["lr"].mul_(0.5)


OPTIMIZERS = {
    "sgd": lambda weights: SGD(weights, lr=0.1, momentum=0.9, nesterov=True),
    "plain sgd": lambda weights: SGD(weights, lr=0.1),
    "sgd foreach": lambda weights: SGD(weights, lr=0.1, momentum=0.9, foreach=True),
    "adam": lambda weights: Adam(weights, lr=0.1, amsgrad=True),
    "adamw fused": lambda weights: AdamW(weights, lr=0.1, fused=True),
    "adamw foreach": lambda weights: AdamW(weights, lr=0.1, foreach=True),
    "own": lambda weights: Counting(weights),
}


class Full(TorchDispatchMode):
    """Memory runs out in one of the operators, counted from 1."""

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
        with self.rollback.undone_if_it_fails():
            for optimizer in self.optimizers:
                optimizer.step()

    def everything(self) -> dict[str, Tensor]:
        found = {f"weight {n}": w.detach().clone() for n, w in enumerate(self.weights)}
        for number, optimizer in enumerate(self.optimizers):
            kept = copy.deepcopy(optimizer.state_dict())
            for place, value in tree_flatten_with_path(kept)[0]:
                if isinstance(value, Tensor | int | float):
                    found[f"{number} {keystr(place)}"] = torch.as_tensor(value)
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


def test_an_update_that_cannot_be_taken_back_says_so() -> None:
    sides = Sides(OPTIMIZERS["adamw foreach"])
    sides.update()
    with pytest.raises(torch.OutOfMemoryError), Full(4):
        sides.update()
    assert sides.rollback.broken
    sides.update()
    assert not sides.rollback.broken


def test_later_updates_copy_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    sides = Sides(OPTIMIZERS["sgd"])
    sides.update()
    monkeypatch.setattr("trgl.rollback._saved", None)
    sides.update()
    sides.gradients(sides.weights, seed=2)
    with pytest.raises(TypeError):  # but one more weight takes part
        sides.update()


def test_a_host_without_room_for_copies_does_not_end_an_update() -> None:
    sides, whole = Sides(OPTIMIZERS["sgd"]), Sides(OPTIMIZERS["sgd"])
    with Full(1):  # the first copy
        sides.update()
    whole.update()
    assert differing(sides.everything(), whole.everything()) == []


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
    assert all(not optimizer.state for step in trainer.steps for optimizer in step.optimizers)
    weights = [name for name, _ in net.named_parameters()]
    assert differing({n: state(net)[n] for n in weights}, {n: before[n] for n in weights}) == []


def adamw_that_runs_out(call: int) -> Callable[[list[nn.Parameter]], Optimizer]:
    """Builds optimizers, one of whose steps, counted over all of them, ends without memory."""
    calls: list[int] = []

    def build(weights: list[nn.Parameter]) -> Optimizer:
        made = AdamW(weights, lr=0.01)
        made.register_step_post_hook(count)
        return made

    def count(*_: Any) -> None:
        calls.append(1)
        if len(calls) == call:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    return build


def test_an_update_that_loss_scaling_skipped_was_not_the_first() -> None:
    net = network(modules=1)
    trainer = trgl.Trainer(net, optimizer=adamw_that_runs_out(1), epochs=1, autocast=torch.float16)
    scaler = trainer.steps[0].scaler
    assert scaler is not None
    scaler.load_state_dict(scaler.state_dict() | {"scale": 2.0**40})
    before = {name: value.detach().clone() for name, value in net.named_parameters()}
    with pytest.raises(trgl.DeviceMemoryError) as caught:
        trainer.fit(batches() * 20)
    assert trainer.steps[0].scaler is not None
    assert trainer.steps[0].scaler.get_scale() < 2.0**40  # it skipped
    assert not caught.value.updating
    assert differing(dict(net.named_parameters()), before) == []


def test_memory_that_runs_out_in_the_last_update_of_an_epoch_is_told() -> None:
    trainer = trgl.Trainer(
        network(modules=1), optimizer=adamw_that_runs_out(2), epochs=1, accumulate=2
    )
    with pytest.raises(trgl.DeviceMemoryError, match=r"Module 1 .*batches of 8.*updated in part"):
        trainer.fit(batches()[:3])


def test_the_features_that_cross_are_there_before_the_update() -> None:
    class Part(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 8, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x)[:, :4]  # a view, which is copied to cross

    class Clones(Full):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):
            if func is torch.ops.aten.clone.default and args[0].shape == (8, 4, 6, 6):
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return func(*args, **(kwargs or {}))

    net = trgl.split(nn.Sequential(Part()), 1, (2, 6, 6), 3, "linear", seed=0)
    trainer = trgl.Trainer(net, optimizer=sgd, epochs=1)
    before = {name: value.detach().clone() for name, value in net.named_parameters()}
    images, labels = torch.randn(8, 2, 6, 6), torch.zeros(8, dtype=torch.long)
    with pytest.raises(trgl.DeviceMemoryError) as caught, Clones(0):
        trainer.fit([(images, labels)])
    assert not caught.value.updating
    assert differing(dict(net.named_parameters()), before) == []


def test_a_state_that_was_replaced_is_made_under_protection_again(tmp_path: Path) -> None:
    net = network(modules=1)
    trainer = trgl.Trainer(net, optimizer=adamw_that_runs_out(1 + len(batches())), epochs=1)
    trainer.save(tmp_path / "new.pt")
    trainer.fit(batches())
    trainer.load(tmp_path / "new.pt")
    before = {name: value.detach().clone() for name, value in net.named_parameters()}
    with pytest.raises(trgl.DeviceMemoryError) as caught:
        trainer.fit(batches(), resume=True)
    assert not caught.value.updating
    assert differing(dict(net.named_parameters()), before) == []
