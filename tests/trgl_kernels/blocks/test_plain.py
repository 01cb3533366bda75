"""Layers without a shortcut: VGG's outputs, and the displacement of layers that keep a shape."""

import copy
from itertools import pairwise

import pytest
import torch
import torchvision
from oracle import gradients
from torch import Tensor, nn

from trgl_kernels import RegularizedPlain, collect_energy, regularize


def layers(batch_norm: bool, *channels: int) -> list[nn.Module]:
    found: list[nn.Module] = []
    for a, b in pairwise(channels):
        norm = [nn.BatchNorm2d(b)] if batch_norm else []
        found += [nn.Conv2d(a, b, 3, padding=1), *norm, nn.ReLU(inplace=True)]
    return found


@pytest.mark.parametrize("batch_norm", [True, False])
def test_layers_that_keep_their_shape_are_measured(batch_norm) -> None:
    children = [*layers(batch_norm, 3, 4, 4, 4), nn.MaxPool2d(2), *layers(batch_norm, 4, 4, 6)]
    plain = nn.Sequential(*children).double()
    ours = RegularizedPlain(*copy.deepcopy(children)).double()
    x = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    depth = 3 if batch_norm else 2
    entered = dict.fromkeys((depth, 2 * depth, 3 * depth + 1))
    y, expected = x, []
    for i, child in enumerate(plain):
        if i in entered:
            entered[i] = y
        y = child(y)
        start = i - depth + 1
        if start in entered:
            expected.append((y - entered[start]).square().sum((1, 2, 3)))
    with collect_energy() as energies:
        z = ours(x)
    torch.testing.assert_close(z, y)
    torch.testing.assert_close(energies.energies, expected)
    found = [
        gradients(
            [out.sum() + sum(terms).sum()], [torch.ones((), dtype=out.dtype)], [*m.parameters()]
        )
        for out, terms, m in ((y, expected, plain), (z, energies.energies, ours))
    ]
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)
    assert list(plain.state_dict()) == list(ours.state_dict())


def test_a_convolution_without_a_relu_is_no_layer() -> None:
    ours = RegularizedPlain(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Sigmoid(), nn.ReLU())
    x = torch.randn(2, 4, 3, 3)
    with collect_energy() as energies:
        ours(x)
    assert len(energies) == 0


@pytest.mark.parametrize("name", ["vgg11", "vgg11_bn"])
def test_vgg(name) -> None:
    model = getattr(torchvision.models, name)(num_classes=3, init_weights=False).eval()
    x, keys = torch.randn(1, 3, 32, 32), list(model.state_dict())
    with torch.no_grad():
        expected = model(x)
        assert regularize(model, energy="displacement") is model
        with collect_energy() as energies:
            torch.testing.assert_close(model(x), expected)
    assert len(energies) == 4  # 256 to 256 channels, and 512 to 512 three times
    assert list(model.state_dict()) == keys
    assert isinstance(model.features, RegularizedPlain)


def test_there_is_no_residue() -> None:
    with pytest.raises(ValueError, match="A VGG has displacements but no residues"):
        regularize(torchvision.models.vgg11(num_classes=3, init_weights=False))
    with pytest.raises(ValueError, match="layers without a shortcut must be 'displacement'"):
        regularize(nn.Sequential(RegularizedPlain(*layers(False, 4, 4))))


def test_hooks_are_honoured() -> None:
    ours = RegularizedPlain(*layers(True, 4, 4))
    calls: list[Tensor] = []
    for child in ours:
        child.register_forward_hook(lambda m, args, y: calls.append(y))
    with collect_energy() as energies:
        ours(torch.randn(2, 4, 3, 3))
    assert len(calls) == 3
    assert len(energies) == 1
