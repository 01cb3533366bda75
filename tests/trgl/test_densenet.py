"""DenseNet in modules: its layers concatenate, so that it trains without a penalty."""

import copy
import math

import pytest
import torch
from small import differing, sgd, state
from torch import nn
from torchvision.models.densenet import DenseNet

import trgl
from trgl.layout import layout_of

CLASSES, SIZE = 3, (3, 16, 16)


def model(drop_rate=0.0):
    torch.manual_seed(0)
    net = DenseNet(4, (2, 3), 8, bn_size=2, drop_rate=drop_rate, num_classes=CLASSES)
    for module in net.modules():  # statistics that do something
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return net


def test_a_block_is_a_layer_and_a_transition_belongs_to_the_next():
    layout = layout_of(model())
    stem = [f"features.{name}" for name in ("conv0", "norm0", "relu0", "pool0")]
    assert list(layout.stem) == stem
    move = " ".join(f"features.transition1.{leaf}" for leaf in ("norm", "relu", "conv", "pool"))
    assert [" ".join(block) for block in layout.blocks] == [
        "features.denseblock1.denselayer1",
        "features.denseblock1.denselayer2",
        f"{move} features.denseblock2.denselayer1",
        "features.denseblock2.denselayer2",
        "features.denseblock2.denselayer3 features.norm5",
    ]


@pytest.mark.parametrize("modules", [1, 2, 4, 5])
def test_keys_outputs_and_gradients_are_those_of_the_model(modules):
    whole = model()
    twin, images = copy.deepcopy(whole), torch.randn(4, *SIZE)
    net = trgl.split(whole, modules, SIZE, CLASSES)
    bodies = {k: v for module in net for k, v in module.body.state_dict().items()}
    expected = {k: v for k, v in twin.state_dict().items() if not k.startswith("classifier.")}
    assert not differing(bodies, expected)
    for mode in (True, False):
        twin.train(mode)
        net.train(mode)
        body = net.whole().body
        y, reference = body(images), twin.features(images)
        torch.testing.assert_close(y, reference, atol=0, rtol=0)
        if mode:
            y.square().sum().backward()
            reference.square().sum().backward()
    found, features = dict(body.named_parameters()), twin.features
    for name, parameter in features.named_parameters():
        torch.testing.assert_close(found[f"features.{name}"].grad, parameter.grad)
    assert torch.equal(net.assemble()(images), net(images))

    # weights of a checkpoint load, and state_dicts round-trip
    other = trgl.split(model(), modules, SIZE, CLASSES)
    other.load_state_dict(net.state_dict())
    assert not differing(other.state_dict(), net.state_dict())


def test_dropout_follows_the_network():
    net = trgl.split(model(0.5), 2, SIZE, CLASSES)
    images = torch.randn(2, *SIZE)
    net.eval()
    assert torch.equal(net(images), net(images))
    net.train()
    assert not torch.equal(net(images), net(images))


@pytest.mark.parametrize("regime", ["parallel", "sequential", "multi-lap", "end-to-end"])
def test_it_trains_without_a_penalty(regime):
    torch.manual_seed(0)
    net = trgl.split(model(), 2, SIZE, CLASSES, seed=0)
    before = state(net)
    labels = torch.arange(12) % CLASSES
    data = [(torch.randn(12, *SIZE) + labels.view(-1, 1, 1, 1), labels)]
    laps = 2 if regime == "multi-lap" else 1
    history = trgl.Trainer(net, regime, optimizer=sgd, epochs=4, laps=laps).fit(data)
    losses = [record.train_loss for record in history.records]
    assert all(math.isfinite(v) for loss in losses for v in loss.values())
    assert losses[-1][2] < 1.0
    assert any("denselayer3.conv2" in name for name in differing(before, state(net)))


def test_a_penalty_is_refused():
    for energy in ("displacement", "module"):
        with pytest.raises(ValueError, match="A DenseNet has no residues and no displacements"):
            trgl.split(model(), 2, SIZE, CLASSES, energy=energy)
    net = trgl.split(model(), 2, SIZE, CLASSES, energy="residue")
    with pytest.raises(ValueError, match="A DenseNet, whose layers concatenate, trains without"):
        trgl.Trainer(net, optimizer=sgd, transport=trgl.Transport(0.5), epochs=1)


def test_other_dense_blocks_are_refused():
    net = model()
    net.features.denseblock1.register_forward_hook(print)
    with pytest.raises(ValueError, match="got _DenseBlock with hooks"):
        layout_of(net)
    net = model()
    net.features = net.features[:4]
    with pytest.raises(ValueError, match="without dense blocks"):
        layout_of(net)
