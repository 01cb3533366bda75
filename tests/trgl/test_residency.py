"""What waits in main memory is not touched there, and comes back as it was.

Without an accelerator, waiting is played: what is sent away is NaN until it is fetched, so that a
training that touches it does not end as it should.
"""

import pytest
import torch
from small import CLASSES, batches, differing, network, sgd, state
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import trgl
from trgl import Trainer, Transport
from trgl.residency import Residency
from trgl.step import LocalStep


class Played(Residency):
    """A residency whose device has a memory of its own, in which nothing stays that was sent."""

    kept = None

    @property
    def moves(self):
        return True

    def send(self, tensor):
        self.kept = self.kept or {}
        gone = torch.full_like(tensor, float("nan") if tensor.is_floating_point() else -7)
        assert gone.untyped_storage().data_ptr() not in self.kept
        self.kept[gone.untyped_storage().data_ptr()] = tensor.detach().clone()
        return gone

    def fetch(self, tensor):
        return self.kept.pop(tensor.untyped_storage().data_ptr())


def adamw(parameters):
    return torch.optim.AdamW(parameters, lr=0.01)


def momentum_of(optimizer):
    return [t for values in optimizer.state.values() for t in values.values() if t.dim()]


def run(offload, played=True, look=None, net_options=None, fits=1, data=None, **options):
    net = network(modules=3, **{"head": "conv", **(net_options or {})})
    options = {"regime": "sequential", "epochs": 2, **options}
    options = {"optimizer": adamw, "transport": Transport(0.1), **options}
    trainer = Trainer(net, **options)
    if played:
        trainer.residency = Played(net, trainer.steps, trainer.device, offload)
        trainer.front.bring = trainer.residency.bring
    for _ in range(fits):
        history = trainer.fit(
            data or batches(), batches(1), on_step=look and (lambda e, b: look(trainer, e, b))
        )
    records = [(r.train_loss, r.cost, r.test) for r in history.records]
    return state(net), records, trainer


OPTIONS = [
    {},
    {"regime": "multi-lap", "laps": 2},
    {"regime": "parallel", "epochs": [1, 3, 2]},
    {"regime": "end-to-end"},
    {"cache": "memory"},
    {"cache": "memory", "regime": "multi-lap", "laps": 2},
    {"cache": "memory", "chunk": 3, "epochs": 3},
    {"net_options": {"shared_head": True}, "optimizer": sgd, "accumulate": 2},
    {"net_options": {"encoder": "stem"}},
    {"net_options": {"encoder": "stem", "freeze_encoder": True}, "cache": "memory"},
    {"fits": 2},
    {"cache": "memory", "data": [*batches(2), *batches(1, 3, seed=1)], "epochs": 3},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: " ".join(options) or "default")
@pytest.mark.parametrize("offload", [False, True])
def test_the_training_is_the_same_to_the_last_bit(offload, options):
    one, two = run(offload, **options), run(offload, played=False, **options)
    assert not differing(one[0], two[0])
    assert one[1] == two[1]


def test_only_the_state_of_what_trains_is_there():
    seen = []

    def look(trainer, epoch, batch):
        if batch == 3:
            seen.append(
                [
                    bool(momentum_of(step.optimizers[0]))
                    and not any(t.isnan().any() for t in momentum_of(step.optimizers[0]))
                    for step in trainer.steps
                ]
            )

    _, _, trainer = run(False, look=look, regime="multi-lap", laps=2, epochs=2)
    assert seen == [[k == m for k in range(3)] for m in (0, 1, 2, 0, 1, 2)]
    assert momentum_of(trainer.steps[0].optimizers[0])[0].isnan().all()


def test_the_state_of_a_shared_head_stays():
    def look(trainer, epoch, batch):
        shared = trainer.steps[0].optimizers[1]
        assert all(shared in step.optimizers for step in trainer.steps)
        assert not any(t.isnan().any() for t in momentum_of(shared))

    run(True, look=look, net_options={"shared_head": True}, optimizer=sgd)


def there(module):
    return not any(p.isnan().any() for p in module.parameters())


@pytest.mark.parametrize("cache", [None, "memory"])
def test_only_the_module_in_training_and_its_head_are_there(cache):
    seen = {}

    def look(trainer, epoch, batch):
        net = trainer.network
        seen[epoch, batch] = "".join(
            str(k) * there(m.body) + "h" * there(m.head) for k, m in enumerate(net, 1)
        )

    _, _, trainer = run(True, look=look, cache=cache)
    assert seen[1, 1] == seen[2, 3] == "1h"
    assert seen[3, 1] == "12h"  # features pass through the first one
    assert seen[4, 3] == ("2h" if cache else "12h")
    assert seen[5, 1] == ("23h" if cache else "123h")  # what the second takes is known
    assert seen[6, 3] == ("3h" if cache else "123h")
    assert all(there(module) for module in trainer.network)


def test_all_is_back_after_an_error():
    net = network(modules=3)
    before = state(net)
    trainer = Trainer(net, "sequential", optimizer=sgd, epochs=2)
    trainer.residency = Played(net, trainer.steps, trainer.device, True)

    def stop(epoch, batch):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer.fit(batches(), on_step=stop)
    assert there(net)
    assert {name[:8] for name in differing(before, state(net))} == {"stages.0"}


@pytest.mark.parametrize(
    ("net_options", "options", "waits"),
    [
        ({}, {}, False),
        ({}, {"regime": "end-to-end"}, False),
        ({"encoder": "stem", "freeze_encoder": True}, {}, False),
        ({"encoder": "stem", "freeze_encoder": True}, {"cache": "memory"}, True),
        ({}, {"epochs": [1, 2]}, True),
        ({}, {"regime": "sequential"}, True),
    ],
)
def test_offloading_needs_something_that_waits(net_options, options, waits):
    options = {"regime": "parallel", "optimizer": sgd, "epochs": 1, "offload": True, **options}
    net = network(modules=2, **net_options)
    if waits:
        assert Trainer(net, **options).residency.offload
    else:
        with pytest.raises(ValueError, match=r"offload=True and all train in every epoch"):
            Trainer(net, **options)


def test_nothing_moves_on_the_cpu():
    net = network(modules=2)
    places = {name: p.data_ptr() for name, p in net.named_parameters()}
    trainer = Trainer(net, "sequential", optimizer=sgd, epochs=1, offload=True)
    assert not trainer.residency.moves
    trainer.fit(batches())
    assert {name: p.data_ptr() for name, p in net.named_parameters()} == places


@pytest.mark.parametrize("capturable", [False, True])
def test_states_go_to_main_memory_and_come_back_where_they_were(capturable):
    with FakeTensorMode():  # tensors without data live on any device
        device = torch.device("cuda", 0)
        modules = [
            trgl.GreedyModule(
                trgl.Body([(f"layer{k}", nn.Linear(8, 8, device=device))]),
                nn.Linear(8, CLASSES, device=device),
            )
            for k in range(2)
        ]
        net = trgl.GreedyNetwork(modules, input_shape=(8,), num_classes=CLASSES)
        steps = [
            LocalStep(
                k,
                module,
                nn.CrossEntropyLoss(),
                [torch.optim.Adam(module.parameters(), capturable=capturable, foreach=False)],
                device,
            )
            for k, module in enumerate(net, 1)
        ]
        for step in steps:
            for parameter in step.module.parameters():
                step.optimizers[0].state[parameter] = {
                    "step": torch.zeros((), device="cuda" if capturable else "cpu"),
                    "exp_avg": torch.zeros_like(parameter),
                }
        residency = Residency(net, steps, device)

        def devices(number):
            return {
                name: tensor.device.type
                for values in steps[number - 1].optimizers[0].state.values()
                for name, tensor in values.items()
            }

        there = {"step": "cuda" if capturable else "cpu", "exp_avg": "cuda"}
        for active in (1, 2, 2, 1):
            residency.begin([active])
            assert devices(active) == there
            assert set(devices(3 - active).values()) == {"cpu"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("cache", [None, "memory"])
def test_a_gpu_holds_what_it_must(cache):
    seen = {}

    def look(trainer, epoch, batch):
        seen[epoch, batch] = [
            {p.device.type for p in module.parameters()} for module in trainer.network
        ]

    gpu, _, trainer = run(True, played=False, look=look, cache=cache, device="cuda")
    assert seen[1, 1] == [{"cuda"}, {"cpu"}, {"cpu"}]
    assert seen[4, 3] == [{"cpu"} if cache else {"cuda"}, {"cuda"}, {"cpu"}]
    assert {p.device.type for p in trainer.network.parameters()} == {"cuda"}
    for value in momentum_of(trainer.steps[0].optimizers[0]):
        assert value.device.type == "cpu"
    plain, *_ = run(False, played=False, cache=cache, device="cuda")
    assert not differing(gpu, plain)
