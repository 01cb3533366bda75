"""The trainer frees what each module's step made, and learns the same."""

import gc

import pytest
import torch
from boundaries import Detach, needs_extension, small_bytes
from small import CLASSES, batches, differing, network, sgd, state
from torch import Tensor

import trgl
from trgl_kernels.boundary import BoundaryWarning, current, live_bytes
from trgl_kernels.boundary.memory import SMALL
from trgl_kernels.collect import EnergyCollector

pytestmark = [
    needs_extension,
    pytest.mark.filterwarnings("ignore::trgl_kernels.boundary.BoundaryWarning"),
]
SIZE = 64  # a map of 64 × 4 × 6 × 6 float32 is 36,864 bytes
MAP = SIZE * 4 * 6 * 6 * 4
DATA = batches(4, SIZE)


def trainer_of(net, **options):
    options.setdefault("transport", trgl.Transport(0.1))
    return trgl.Trainer(net, optimizer=sgd, epochs=2, **options)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"regime": "sequential"},
        {"regime": "end-to-end"},
        {"transport": trgl.Multipliers(every=2)},
        {"transport": None},
        {"accumulate": 2, "clip_norm": 1.0},
        {"autocast": torch.bfloat16},
        {"autocast": torch.float16},
        {"channels_last": True},
    ],
    ids=str,
)
def test_the_boundary_changes_nothing_of_what_is_learned(options):
    histories, states = [], []
    for replace in (False, True):
        net = network(modules=3, recompute_heads=0)
        trainer = trainer_of(net, **options)
        for step in trainer.steps:
            if replace:
                step.boundary = Detach()
            else:
                step.boundary.find = "always"
        history = trainer.fit(DATA, DATA)
        histories.append([(r.train_loss, r.cost, r.train_accuracy) for r in history.records])
        states.append(state(net))
        if not replace:
            assert all(step.boundary.held == () for step in trainer.steps)
    assert histories[0] == histories[1]
    assert differing(*states) == []


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_shared_head(accumulate):
    net = network(modules=3, head="conv", shared_head=True)
    trainer = trainer_of(net, accumulate=accumulate)
    for step in trainer.steps:
        step.boundary.find = "always"
    history = trainer.fit(DATA)
    assert all(step.boundary.held == () for step in trainer.steps)
    assert all(value == value for r in history.records for value in r.train_loss.values())


def leaks(net):
    """Hooks that keep every output of every block and head, and a logged loss with its graph."""
    kept, losses = [], []
    for module in net:
        for layer in (*module.body.units, *module.head.children(), module.head):
            layer.register_forward_hook(lambda _m, _i, output: kept.append(output * 2))

    def criterion(logits, labels):
        loss = torch.nn.functional.cross_entropy(logits, labels)
        losses.append(loss)
        return loss

    return kept, losses, criterion


@pytest.mark.parametrize("head", ["linear", "conv"])
def test_every_module_leaves_only_what_crosses(head):
    net = network(modules=3, head=head)
    kept, losses, criterion = leaks(net)
    trainer = trainer_of(net, criterion=criterion)
    images, labels = DATA[0]
    x: Tensor = images
    for step in trainer.steps:  # makes the optimizer's state
        step.module.train()
        x = step(x, labels)
    del x

    def small() -> int:
        return small_bytes([*kept, *losses], [images, *net.parameters(), *net.buffers()])

    before = live_bytes() - small()
    for _ in range(5):
        x = images
        for step in trainer.steps:
            seen = len(kept)
            x = step(x, labels)
            assert live_bytes() - before == MAP + small(), step.number
            released = [t for t in kept[seen:] if t.untyped_storage().nbytes() > SMALL]
            assert released
            for output in released:
                with pytest.raises(RuntimeError, match=f"boundary 'module {step.number}'"):
                    output.sum()
        del x
    assert all(loss.isfinite() for loss in losses)


def test_a_hook_keeps_on_purpose():
    net = network(modules=2)
    features = []
    net[0].body.units[0].register_forward_hook(
        lambda _m, _i, output: features.append(current().keep(output.detach() * 2))
    )
    trainer = trainer_of(net)
    images, labels = DATA[0]
    for _ in range(3):
        trainer.steps[0](images, labels)
    assert trainer.steps[0].boundary.held == ()
    assert all(feature.isfinite().all() for feature in features)


def test_the_trainer_says_once_per_module_what_is_held():
    net = network(modules=2)
    kept, _, criterion = leaks(net)
    with pytest.warns(BoundaryWarning) as said:
        trainer_of(net, criterion=criterion).fit(DATA)
    modules = [str(w.message).split(":")[0] for w in said if w.category is BoundaryWarning]
    assert modules == ["Boundary 'module 1'", "Boundary 'module 2'"]
    assert kept


@pytest.mark.parametrize("chunk", [None, 16])
def test_what_hooks_keep_of_frozen_modules_is_gone(chunk):
    net = network(modules=3, encoder="stem", freeze_encoder=True)
    kept = []
    for owner in (net.encoder, net[0].body.units[0]):
        owner.register_forward_hook(lambda _m, _i, output: kept.append(output * 2))
    trainer = trainer_of(net, regime="sequential", chunk=chunk)
    for step in trainer.steps:
        step.passing.find = "always"
    trainer.front.begin([3])
    images, _ = DATA[0]
    trainer.front(images)
    gc.collect()  # of the tests before
    before = live_bytes()
    for _ in range(3):
        x = trainer.front(images)
        assert live_bytes() - before == MAP
        for name, output in zip(("encoder", "module 1, which is frozen"), kept[-2:], strict=True):
            with pytest.raises(RuntimeError, match=f"boundary '{name}'"):
                output.sum()
        del x


def test_what_hooks_keep_in_an_evaluation_is_theirs():
    net = network(modules=2)
    kept = []
    net[0].body.units[0].register_forward_hook(lambda _m, _i, output: kept.append(output))
    trainer_of(net).evaluate(DATA)
    assert all(features.isfinite().all() for features in kept)
    assert len(kept) == len(DATA)


def test_a_criterion_that_fails_leaves_nothing():
    net = network(modules=2)

    def criterion(logits, labels):
        raise KeyError("the user's own")

    trainer = trainer_of(net, criterion=criterion)
    images, labels = DATA[0]
    before = live_bytes()
    with pytest.raises(KeyError, match="the user's own") as raised:
        trainer.steps[0](images, labels)
    # those of the test itself are no traceback's
    frames = [entry.frame.f_locals for entry in raised.traceback[1:]]
    values = [value for names in frames for value in names.values()]
    tensors = [value for value in values if isinstance(value, Tensor)]
    energies = [t for value in values if isinstance(value, EnergyCollector) for t in value.energies]
    owned = [images, labels, *net.parameters(), *net.buffers()]
    # mean and deviation of 4 channels, which the nodes in C++ of three batch norms saved
    unseen = 3 * 2 * 4 * 4
    assert live_bytes() - before == small_bytes([*tensors, *energies], owned) + unseen
    del raised, frames, values, tensors, energies
    gc.collect()
    assert live_bytes() == before


class Centres(torch.nn.Module):
    """A criterion that remembers: a buffer that each batch replaces."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(SIZE, 64))

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        self.seen = torch.cat([logits.detach(), self.seen], 1)[:, :64].contiguous()
        return torch.nn.functional.cross_entropy(logits, labels) + 0 * self.seen.sum()


def test_buffers_of_a_criterion_live_on():
    criterion = [Centres(), Centres()]
    trainer = trainer_of(network(modules=2), criterion=criterion)
    for step in trainer.steps:
        step.boundary.find = "always"
    trainer.fit(DATA)
    assert all(step.boundary.held == () for step in trainer.steps)
    assert all(one.seen[:, : 4 * CLASSES].abs().sum() > 0 for one in criterion)
