"""Every architecture in modules: energies by hand, training in every regime, checkpoints."""

import copy
import math

import pytest
import torch
from architectures import ARCHITECTURES, CLASSES, SHAPE
from small import differing
from torch import nn
from torchvision.models import (
    DenseNet,
    EfficientNet,
    MobileNetV2,
    ResNet,
    SwinTransformer,
    VisionTransformer,
    swin_transformer,
)
from torchvision.ops import StochasticDepth

import trgl
from trgl import models
from trgl_kernels import collect_energy


def made(name):
    torch.manual_seed(0)
    return ARCHITECTURES[name].build()


def divided(model, name, modules=2, **options):
    options = {"head": "linear", "seed": 0, **ARCHITECTURES[name].options, **options}
    return trgl.split(model, modules, SHAPE, CLASSES, **options)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_energies_are_those_of_the_residues(name):
    """In training mode, paths dropped at random; the mean over batch and features of r²."""
    model = made(name).train()
    images = torch.randn(6, *SHAPE)
    plain = copy.deepcopy(model)
    net = divided(model, name).train()
    torch.manual_seed(5)
    residues = ARCHITECTURES[name].residues(plain, images)

    torch.manual_seed(5)
    x, position = images if net.encoder is None else net.encoder.body(images), 0
    for module in net:
        with collect_energy() as energies:
            x = module.body(x)
        assert len(energies) == module.energy_terms > 0
        own = residues[position : position + module.energy_terms]
        position += module.energy_terms
        expected = sum(r.double().square().mean() for r in own)
        assert expected > 0
        assert energies.total().item() == pytest.approx(expected.item(), rel=2e-6)
    assert position == len(residues)
    blocks = [m for m in plain.modules() if isinstance(m, swin_transformer.SwinTransformerBlock)]
    if blocks:
        assert len(residues) == 2 * len(blocks)
        assert any((r == 0).flatten(1).all(1).any() for r in residues)  # a dropped path


@pytest.mark.parametrize("regime", ["parallel", "sequential", "multi-lap", "end-to-end"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_losses_fall_in_every_regime(name, regime):
    model = made(name)
    for layer in model.modules():
        if isinstance(layer, (StochasticDepth, nn.Dropout)):
            layer.p = 0.0
    net = divided(model, name, head="pool-linear")
    labels = torch.arange(6) % CLASSES
    data = [(torch.randn(6, *SHAPE) + labels.view(-1, 1, 1, 1), labels)]

    def steady(parameters):
        if name.startswith(("swin", "vit")):
            return torch.optim.AdamW(parameters, lr=0.003)
        return torch.optim.SGD(parameters, lr=0.01, momentum=0.9)

    trainer = trgl.Trainer(
        net,
        regime,
        optimizer=steady,
        transport=trgl.Transport(50.0),
        epochs=10,
        laps=2 if regime == "multi-lap" else 1,
    )
    records = trainer.fit(data).records
    numbers = [2] if regime == "end-to-end" else [number for number, _ in net.trained]
    for number in numbers:
        losses = [r.train_loss[number] for r in records if number in r.train_loss]
        assert len(losses) == 10
        assert all(map(math.isfinite, losses))
        assert losses[-1] < losses[0], number


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_state_dicts_round_trip(name):
    net = divided(made(name), name)
    torch.manual_seed(9)
    other = divided(ARCHITECTURES[name].build(), name)
    assert differing(net.state_dict(), other.state_dict())
    other.load_state_dict(net.state_dict())
    assert not differing(net.state_dict(), other.state_dict())


def classifier_of(model):
    """What torchvision does behind the last block."""
    if isinstance(model, ResNet):
        return nn.Sequential(model.avgpool, nn.Flatten(), model.fc)
    if isinstance(model, SwinTransformer):
        return nn.Sequential(model.norm, model.permute, model.avgpool, model.flatten, model.head)
    if isinstance(model, (MobileNetV2, EfficientNet)):
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), model.classifier)
    if isinstance(model, DenseNet):
        pool = nn.AdaptiveAvgPool2d(1)
        return nn.Sequential(nn.ReLU(), pool, nn.Flatten(), model.classifier)
    if isinstance(model, VisionTransformer):
        return nn.Sequential(model.encoder.ln, ClassOnly(), model.heads)
    return nn.Sequential(model.avgpool, nn.Flatten(), model.classifier)


class ClassOnly(nn.Module):
    def forward(self, x):
        return x[:, 0]


@pytest.mark.parametrize(
    "name",
    ["resnet18", "resnet50", "resnext50_32x4d", "mobilenet_v2", "efficientnet_b0", "densenet121",
     "swin_t", "swin_v2_t", "vit_tiny"],
)  # fmt: skip
def test_a_checkpoint_of_torchvision_loads_and_gives_its_logits(name):
    """The network of the library's own size; its weights drawn, for nothing is downloaded."""
    torch.manual_seed(1)
    source = models.build(name, (3, 32, 32), CLASSES).eval()
    checkpoint = source.state_dict()
    torch.manual_seed(2)
    model = models.build(name, (3, 32, 32), CLASSES)
    head = classifier_of(model)
    net = trgl.split(model, 2, (3, 32, 32), CLASSES, ["pool-linear", lambda shape, classes: head])
    assembled = net.assemble()
    bodies = {key for key in assembled.state_dict() if not key.startswith("head.")}
    assert bodies <= set(checkpoint)
    missing, unexpected = assembled.load_state_dict(checkpoint, strict=False)
    assert all(key.startswith("head.") for key in missing)
    left = {key.split(".")[0] for key in unexpected}
    assert left <= {"fc", "classifier", "norm", "head", "heads", "encoder"}
    head.load_state_dict(classifier_of(source).state_dict())
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected, logits = source(images), assembled.eval()(images)
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "head", "energy"),
    [
        *((name, "conv", "residue") for name in ("resnet50", "resnet101", "resnet152")),
        ("resnext50_32x4d", "conv", "displacement"),
        ("wide_resnet50_2", "conv", "residue"),
        ("vgg19", "conv", "displacement"),
        ("vgg19_bn", "mlp-sr", "displacement"),
        ("densenet121", "conv", "residue"),
        ("mobilenet_v2", "mlp", "residue"),
        ("efficientnet_b0", "conv", "residue"),
        ("swin_t", "pool-linear", "residue"),
        ("vit_small", "pool-linear", "residue"),
    ],
)
def test_networks_of_their_own_size_train(name, head, energy):
    torch.manual_seed(0)
    model = models.build(name, (3, 32, 32), 10, stem="tiny-imagenet")
    for layer in model.modules():
        if isinstance(layer, (StochasticDepth, nn.Dropout)):
            layer.p = 0.0
    energy = None if name.startswith("densenet") else energy
    net = trgl.split(model, 4, (3, 32, 32), 10, head, energy=energy, seed=0)
    if not name.startswith(("swin", "vit")):
        models.orthogonal_(net, 0.5 if name == "vgg19" else 0.1, seed=0)
    labels = torch.arange(4)
    data = [(torch.randn(4, 3, 32, 32) + labels.view(-1, 1, 1, 1), labels)]
    penalty = None if energy is None else trgl.Transport(50.0)

    def published(parameters):  # the rate of parallel training; small for transformers
        if name.startswith(("swin", "vit")):
            return torch.optim.AdamW(parameters, lr=0.0003)
        return torch.optim.SGD(parameters, lr=0.003, momentum=0.9)

    trainer = trgl.Trainer(net, optimizer=published, transport=penalty, epochs=10)
    records = trainer.fit(data).records
    for number, _ in net.trained:
        losses = [record.train_loss[number] for record in records]
        assert all(map(math.isfinite, losses))
        assert losses[-1] < losses[0], (number, losses)
