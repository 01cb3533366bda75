"""Evaluation, and what a training records of itself."""

import json

import pytest
import torch
from small import differing, network, sgd, state
from torch import nn
from training import FLAT, TEST, TRAIN, dropout_network, trained

from trgl import Trainer, Transport


def test_evaluation_is_the_accuracy_and_loss_of_every_module_on_all_images():
    net = network(modules=2, encoder="stem")
    trainer, history = trained(net, test=TEST, validation=TRAIN, epochs=2)
    images, labels = (torch.cat(parts) for parts in zip(*TEST, strict=True))
    assert not net.training
    final = history.final
    assert final.modules == (0, 1, 2)
    assert final.samples == 16
    logits = [logits for _, _, logits in net.walk(images)]
    assert final.accuracy == tuple((z.argmax(1) == labels).double().mean().item() for z in logits)
    expected = [nn.functional.cross_entropy(z, labels).item() for z in logits]
    assert final.loss == pytest.approx(expected)
    assert trainer.evaluate(TEST) == final
    assert history.records[-1].validation.samples == 24
    assert history.best_module()[0] in (1, 2)
    json.dumps(history.as_dict())


def test_records_hold_what_was_measured():
    net = network(modules=2, encoder="stem")
    calls, steps = [], []
    trainer = Trainer(
        net, optimizer=sgd, epochs=5, evaluate_every=2, transport=Transport([0.5, 0.25])
    )
    history = trainer.fit(
        TRAIN, TEST, on_epoch=calls.append, on_step=lambda *where: steps.append(where)
    )
    assert tuple(calls) == history.records
    assert steps == [(epoch, batch) for epoch in range(1, 6) for batch in (1, 2, 3)]
    assert [r.test is not None for r in history.records] == [False, True, False, True, True]
    first = history.records[0]
    assert (first.epoch, first.lap, first.trained) == (1, 1, (0, 1, 2))
    assert set(first.cost) == set(first.weight) == {1, 2}
    assert first.weight == {1: 1.0, 2: 2.0}
    assert all(0 <= accuracy <= 1 for accuracy in first.train_accuracy.values())
    assert first.validation is None
    assert first.seconds > 0
    losses = [record.train_loss[2] for record in history.records]
    assert losses[-1] < losses[0]


def shuffled(data, size=8):
    """Draws its order from PyTorch's global generator."""
    dataset = torch.utils.data.TensorDataset(*(torch.cat(p) for p in zip(*data, strict=True)))
    return torch.utils.data.DataLoader(dataset, size, shuffle=True)


def test_evaluation_never_changes_the_training():
    data = shuffled(FLAT)
    nets = [dropout_network() for _ in range(3)]
    trained(nets[0], data=data, epochs=3)
    trained(nets[1], data=data, test=data, validation=data, epochs=3)
    trained(nets[2], data=data, test=data, epochs=3, evaluate_every=2)
    assert not differing(state(nets[0]), state(nets[1]))
    assert not differing(state(nets[0]), state(nets[2]))
    trainer = Trainer(nets[0], optimizer=sgd)
    generator = torch.get_rng_state()
    trainer.evaluate(data)
    assert torch.equal(torch.get_rng_state(), generator)
