"""Trainings against loops that everyone would write."""

import copy

import pytest
import torch
import torchvision
from small import CLASSES, differing, network, sgd, state
from torch import nn
from training import FLAT, TEST, TRAIN, halving, trained

import trgl
from trgl import Trainer, Transport


def by_hand(net, data, epochs, optimizer, scheduler=None):
    """End-to-end training as everyone writes it."""
    criterion = nn.CrossEntropyLoss()
    optimizer = optimizer(net.parameters())
    scheduler = None if scheduler is None else scheduler(optimizer)
    losses = []
    torch.manual_seed(0)
    for _ in range(epochs):
        net.train()
        for images, labels in data:
            optimizer.zero_grad()
            loss = criterion(net(images), labels)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        if scheduler is not None:
            scheduler.step()
    return losses


def resnet():
    torch.manual_seed(0)
    block = torchvision.models.resnet.BasicBlock
    model = torchvision.models.resnet.ResNet(block, [1, 1, 1, 1], num_classes=CLASSES)
    model.maxpool = nn.Identity()
    return trgl.split(model, 1, (3, 8, 8), CLASSES, "conv", seed=0)


@pytest.mark.parametrize("regime", ["parallel", "sequential", "multi-lap", "end-to-end"])
@pytest.mark.parametrize("optimizer", [sgd, torch.optim.AdamW], ids=["sgd", "adamw"])
def test_one_module_without_penalty_is_the_loop_that_everyone_writes(regime, optimizer):
    net = network(modules=1, block="post-activation")
    twin = copy.deepcopy(net)
    _, history = trained(net, regime, optimizer=optimizer, scheduler=halving, epochs=3)
    losses = by_hand(twin, TRAIN, 3, optimizer, halving)
    assert not differing(state(net), state(twin))
    assert history.records[2].train_loss[1] == pytest.approx(sum(losses[6:]) / 3, rel=1e-6)


def test_one_module_of_a_torchvision_resnet_with_its_stem_is_the_loop_that_everyone_writes():
    data = [(torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 0])) for _ in range(2)]
    net, twin = resnet(), resnet()
    trained(net, data=data)
    by_hand(twin, data, 2, sgd)
    assert not differing(state(net), state(twin))


def test_dropout_draws_what_it_draws_by_hand():
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(72, 8), nn.Dropout(0.5), nn.ReLU())
    net = trgl.split(body, 1, (72,), CLASSES, "linear")
    twin = copy.deepcopy(net)
    trained(net, data=FLAT)
    by_hand(twin, FLAT, 2, sgd)
    assert not differing(state(net), state(twin))


def test_end_to_end_trains_everything_but_the_inner_heads():
    net = network(modules=3, encoder="stem")
    before = state(net)
    trainer, history = trained(net, "end-to-end", test=TEST)
    moved = differing(before, state(net))
    inner = {f"stages.{k}.head" for k in (0, 1)} | {"encoder.head"}
    assert not [name for name in moved if any(name.startswith(head) for head in inner)]
    parameters = {n for n, _ in net.named_parameters() if not any(n.startswith(h) for h in inner)}
    assert parameters <= set(moved)
    assert history.final.modules == (3,)
    assert len(trainer.steps) == 1
    # the same as a hand-written loop over the same layers
    twin = network(modules=3, encoder="stem")
    by_hand(twin.assemble(), TRAIN, 2, sgd)
    assert not differing(state(net), state(twin))


def test_end_to_end_with_transport_penalizes_all_blocks():
    net = network(modules=3, encoder="stem")
    _, history = trained(net, "end-to-end", transport=Transport(0.2), epochs=1)
    assert history.records[0].cost[3] > 0
    assert history.records[0].weight == {3: 2.5}
    plain = network(modules=3, encoder="stem")
    trained(plain, "end-to-end", epochs=1)
    assert differing(state(net), state(plain))
    with pytest.raises(ValueError, match="cannot double"):
        Trainer(net, "end-to-end", optimizer=sgd, transport=Transport(0.2, double=True))


def test_modules_train_in_parallel_as_each_would_alone_on_the_features_of_the_one_before():
    net, twin = (network(modules=2, blocks=2) for _ in range(2))
    transport = Transport(0.1, double=True)
    trained(net, epochs=1, transport=transport)
    optimizers = [sgd(list(module.parameters())) for module in twin]
    twin.train()
    for images, labels in TRAIN:
        x = images
        for module, optimizer, tau in zip(twin, optimizers, (0.1, 0.2), strict=True):
            residue = []
            convolution = module.body.units[-1].conv2
            handle = convolution.register_forward_hook(lambda m, a, r, to=residue: to.append(r))
            features, logits = module(x)
            handle.remove()
            cost = residue[-1].square().mean()
            loss = nn.functional.cross_entropy(logits, labels) + cost / (2 * tau)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            x = features.detach()
    for mine, wanted in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-4, atol=1e-6)
