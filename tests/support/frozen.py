"""Trainings behind frozen modules."""

import torch
from small import CLASSES, SHAPE, batches, differing, network, sgd, state
from torch.utils.data import DataLoader, TensorDataset

import trgl
from trgl import Trainer, Transport
from trgl.data import Batches

PIXELS = torch.randint(0, 256, (21, *SHAPE), dtype=torch.uint8)


LABELS = torch.arange(21) % CLASSES


FLOATS = torch.randn(21, *SHAPE)


def shuffled(**options):
    return Batches(PIXELS, LABELS, 5, shuffle=True, **{"seed": 3, **options})  # 5 5 5 6


LOADERS = {
    "list": lambda: batches(3, 4),
    "uneven list": lambda: list(zip(FLOATS.split(8), LABELS.split(8), strict=True)),
    "batches": shuffled,
    "uneven": lambda: Batches(PIXELS, LABELS, 8, shuffle=True, seed=1),  # 8 8 5
    "dropping": lambda: Batches(PIXELS, LABELS, 8, shuffle=True, drop_last=True),
    "DataLoader": lambda: DataLoader(TensorDataset(FLOATS, LABELS), 8, shuffle=True),
    "twins": lambda: DataLoader(TensorDataset(FLOATS[LABELS], LABELS), 8, shuffle=True),
}


def run(cache, data, net_options=None, chunk=None, **options):
    torch.manual_seed(5)
    net = network(modules=3, **{"head": "conv", **(net_options or {})})
    calls = []
    fronts = [net.encoder] if isinstance(net.encoder, trgl.FrozenEncoder) else []
    for body in [*fronts, *(module.body for module in net)]:
        body.register_forward_hook(
            lambda m, i, o: calls.append(len(o)) if not torch.is_grad_enabled() else None
        )
    trainer = Trainer(
        net,
        optimizer=sgd,
        transport=Transport(0.1),
        cache=cache,
        chunk=chunk,
        **{"regime": "sequential", "epochs": 3, **options},
    )
    history = trainer.fit(data)
    records = [(r.train_loss, r.train_accuracy, r.cost) for r in history.records]
    return state(net), records, calls


def same(one, two):
    assert not differing(one[0], two[0])
    assert one[1] == two[1]
