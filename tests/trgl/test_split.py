import copy
import sys

import pytest
import torch
import torchvision
from small import CLASSES, SHAPE, differing, state
from splits import chain2, own_energies
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

import trgl
from trgl_kernels import (
    RegularizedBasicBlock,
    RegularizedBottleneck,
)

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def resnet(block=BasicBlock, layers=(1, 2, 1, 1), **options):
    torch.manual_seed(0)
    return ResNet(block, list(layers), num_classes=7, **options)


def features(model, x):
    for name in ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"):
        x = getattr(model, name)(x)
    return x


@pytest.mark.parametrize(
    ("model", "block"),
    [
        (lambda: resnet(), RegularizedBasicBlock),
        (lambda: resnet(Bottleneck), RegularizedBottleneck),
        (lambda: resnet(Bottleneck, groups=4, width_per_group=4), RegularizedBottleneck),
        (lambda: resnet(Bottleneck, width_per_group=72), RegularizedBottleneck),
        (lambda: resnet(RegularizedBasicBlock), RegularizedBasicBlock),
    ],
    ids=["resnet", "bottleneck", "resnext", "wide", "regularized"],
)
def test_torchvision_resnets_keep_keys_and_outputs(model, block):
    model = model().eval()
    original = copy.deepcopy(model)
    net = trgl.split(model, 3, (3, 32, 32), 7, "linear").eval()
    assert [len(module.body.names) for module in net] == [4 + 2, 2, 1]
    assert [module.energy_terms for module in net] == [2, 2, 1]
    assembled = net.assemble()
    kept = {k: v for k, v in state(assembled).items() if not k.startswith("head.")}
    dropped = {k: v for k, v in state(original).items() if not k.startswith("fc.")}
    assert not differing(kept, dropped)
    assert isinstance(assembled.get_submodule("layer1.0"), block)
    x = IMAGES
    for module in net:
        x = module.body(x)
    torch.testing.assert_close(x, features(original, IMAGES))
    assert net(IMAGES).shape == (2, 7)


def test_stems_that_were_changed_for_small_images_work():
    model = resnet()
    model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    net = trgl.split(model, 2, (3, 32, 32), 7)
    assert net[1].head[0].in_channels == 512
    assert net(IMAGES).shape == (2, 7)


@pytest.mark.parametrize(
    ("modules", "balance", "expected"),
    [
        (1, "depth", [7]),
        (2, "depth", [4, 3]),
        (3, "depth", [3, 2, 2]),
        (7, "depth", [1] * 7),
        (3, [1, 1, 5], [1, 1, 5]),
    ],
)
def test_balance(modules, balance, expected):
    model = trgl.models.chain(7, 4, 2, kernel_size=3, stride=1)
    net = trgl.split(model, modules, SHAPE, CLASSES, "linear", balance)
    assert [module.energy_terms for module in net] == expected


def test_splitting_touches_neither_data_nor_modes_nor_the_generator():
    model = resnet()
    model.layer1.eval()
    before, modes = state(model), [module.training for module in model.layer1.modules()]
    generator = torch.get_rng_state()
    net = trgl.split(model, 2, (3, 32, 32), 7, seed=1)
    assert torch.equal(torch.get_rng_state(), generator)
    assert not differing(before, state(model))
    assert [module.training for module in model.layer1.modules()] == modes
    assert net[1].body.training
    again = trgl.split(resnet(), 2, (3, 32, 32), 7, seed=1)
    assert not differing(state(net), state(again))
    other = trgl.split(resnet(), 2, (3, 32, 32), 7, seed=2)
    assert all("head" in name for name in differing(state(net), state(other)))


def test_an_encoder_is_split_off_or_put_in_the_stems_place():
    def model():
        return trgl.models.chain(2, 4, 2, kernel_size=3, stride=1)

    trained = trgl.split(model(), 2, SHAPE, CLASSES, ["mlp", "conv", "linear"], encoder="stem")
    assert isinstance(trained.encoder, trgl.GreedyModule)
    assert trained.encoder.body.names == ["encoder.0", "encoder.1", "encoder.2"]
    assert [type(m.head[0]).__name__ for _, m in trained.trained] == [
        "FlatLinear",
        "Conv2d",
        "FlatLinear",
    ]
    assert type(trained.encoder.head[1]) is nn.BatchNorm1d
    frozen = trgl.split(model(), 2, SHAPE, CLASSES, encoder="stem", freeze_encoder=True)
    assert isinstance(frozen.encoder, trgl.FrozenEncoder)
    own = nn.Conv2d(2, 4, 1)
    replaced = trgl.split(model(), 2, SHAPE, CLASSES, encoder=own, freeze_encoder=True)
    assert replaced.encoder.get_submodule("encoder") is own
    assert not own.weight.requires_grad
    assert [module.body.names for module in replaced] == [["blocks.0"], ["blocks.1"]]
    keys = list(replaced.assemble().state_dict())
    assert keys[0] == "encoder.weight"


def test_one_shared_head():
    model = trgl.models.chain(3, 4, 2, kernel_size=3, stride=1)
    net = trgl.split(model, 3, SHAPE, CLASSES, "mlp", shared_head=True, encoder="stem")
    assert net.head_is_shared
    assert net[0].head is net[2].head
    assert net.encoder.head is not net[0].head
    with pytest.raises(ValueError, match="of one shape"):
        trgl.split(resnet(), 2, (3, 32, 32), 7, shared_head=True)


def test_double_precision_models():
    net = trgl.split(resnet().double(), 2, (3, 32, 32), 7)
    assert net(IMAGES.double()).dtype is torch.float64


class Broken(nn.Module):
    def __init__(self, result):
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.result = result

    def forward(self, x):
        return self.result(x)


def data_dependent(x):
    return x[x > 0].view(2, -1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (lambda: (chain2(), 3, SHAPE, 3), "Use modules=2 or fewer"),
        (lambda: (chain2(), 0, SHAPE, 3), "modules must be"),
        (lambda: (chain2(), True, SHAPE, 3), "modules must be"),
        (lambda: (chain2(), 2, SHAPE, 0), "num_classes must be"),
        (lambda: (chain2(), 2, (), 3), "such as"),
        (lambda: (chain2(), 2, (2, 0, 6), 3), "such as"),
        (lambda: (chain2(), 2, (3, 6, 6), 3), "layer 'encoder.0'.*Check input_shape"),
        (lambda: (chain2(), 2, SHAPE, 3, "conv", [1, 2]), "2 blocks in all"),
        (lambda: (chain2(), 2, SHAPE, 3, "conv", [2]), "2 blocks in all"),
        (lambda: (chain2(), 2, SHAPE, 3, "conv", [2, 0]), "at least one block"),
        (lambda: (chain2(), 2, SHAPE, 3, "conv", "width"), "'width'"),
        (lambda: (chain2(), 2, SHAPE, 3, "cnn"), "'cnn'"),
        (lambda: (chain2(), 2, SHAPE, 3, lambda s, c: nn.Flatten()), r"logits \[N, 3\].*module 1"),
        (
            lambda: (chain2(), 2, SHAPE, 3, lambda s, c: nn.Linear(5, 3)),
            "the head of module 1 cannot be inferred",
        ),
        (lambda: (chain2(), 2, 6, 3), "such as.*got 6"),
        (lambda: (chain2(), 2, "266", 3), "such as"),
        (lambda: (chain2(), 2, (2, 6.0, 6), 3), "such as"),
        (lambda: (chain2(), 2, None, 3), "such as"),
        (lambda: (chain2(), 2, SHAPE, 3, "conv", 2), "list of whole numbers"),
        (lambda: (chain2(), 2, SHAPE, 3, "conv", None), "list of whole numbers"),
        (lambda: (chain2(), 2, SHAPE, 3, "conv", [1.0, 1.0]), "list of whole numbers"),
        (lambda: (chain2(), 2, SHAPE, 3, "conv", ["1", "1"]), "list of whole numbers"),
        (lambda: ("resnet", 2, SHAPE, 3), "an nn.Module, but got str"),
        (lambda: (nn.Sequential(Broken(lambda x: (x, x))), 1, (4,), 3), "returns tuple"),
        (lambda: (nn.Sequential(Broken(lambda x: x.sum())), 1, (4,), 3), "of the same N"),
        (lambda: (nn.Sequential(Broken(lambda x: x[:1])), 1, (4,), 3), "for N = 2"),
        (
            lambda: (nn.Sequential(Broken(data_dependent)), 1, (4,), 3),
            "module 1 cannot be inferred",
        ),
    ],
)
def test_what_cannot_be_split_says_why(arguments, message):
    with pytest.raises(ValueError, match=message):
        trgl.split(*arguments())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"energy": "kinetic"}, "residue, displacement, module"),
        ({"encoder": "first"}, "None, 'stem' or an nn.Module"),
        ({"seed": "one"}, "seed must be"),
        ({"freeze_encoder": True}, "Add encoder='stem'"),
        ({"encoder": "stem", "head": ["conv", "conv"]}, "needs 3 entries"),
    ],
)
def test_options_that_do_not_exist_say_which_do(options, message):
    with pytest.raises(ValueError, match=message):
        trgl.split(chain2(), 2, SHAPE, 3, **options)


def test_a_model_without_a_stem_has_no_encoder_and_head_is_a_reserved_name():
    with pytest.raises(ValueError, match="has none"):
        trgl.split(nn.Sequential(nn.Linear(4, 4)), 1, (4,), 3, "linear", encoder="stem")
    named = nn.Sequential()
    named.add_module("head", nn.Linear(4, 4))
    with pytest.raises(ValueError, match="rename the layer"):
        trgl.split(named, 1, (4,), 3, "linear")


def test_a_published_split_of_a_published_network():
    net = trgl.split(torchvision.models.resnet50(), 4, (3, 64, 64), 200, balance=[3, 4, 6, 3])
    assert [module.energy_terms for module in net] == [3, 4, 6, 3]
    assert [module.head[-1].in_features for module in net] == [256, 512, 1024, 2048]


@pytest.mark.parametrize(
    "options",
    [
        {"head": "cnn"},
        {"head": lambda shape, classes: nn.Flatten()},
        {"input_shape": (3, 6, 6)},
        {"balance": [1, 1]},
        {"encoder": "stem"},
        {"encoder": nn.BatchNorm2d(4), "freeze_encoder": True, "head": "cnn"},
    ],
)
def test_a_split_that_fails_leaves_the_model_as_it_was(options):
    model = own_energies()
    encoder = options.get("encoder")
    arguments = {"input_shape": (4, 6, 6), "head": "linear", "energy": "displacement"} | options
    with pytest.raises(ValueError, match=r"head|layer|balance|stem"):
        trgl.split(model, 3, num_classes=3, **arguments)
    assert type(model[2]) is BasicBlock
    assert [block.energy for block in model[:2]] == ["displacement", "residue"]
    assert "energy" not in vars(model[2])
    assert all("recompute" not in vars(block) for block in model)
    assert all(module.training for module in model.modules())
    if isinstance(encoder, nn.Module):
        assert encoder.training
        assert encoder.weight.requires_grad


def test_an_error_of_regularizing_is_not_swallowed(monkeypatch):
    def broken(*args, **options):
        raise ValueError("something else")

    monkeypatch.setattr(sys.modules["trgl.split"], "twin_of", broken)
    with pytest.raises(ValueError, match="something else"):
        trgl.split(own_energies(), 3, (4, 6, 6), 3, "linear")


@pytest.mark.parametrize(
    ("asked", "modes"),
    [
        (None, ["none", "activation", "activation"]),
        ("residue", ["residue"] * 3),
        ("none", ["none"] * 3),
    ],
)
def test_what_blocks_recompute(asked, modes):
    model = own_energies()
    model[0].with_recompute("none")
    trgl.split(model, 3, (4, 6, 6), 3, "linear", recompute=asked)
    assert [block.recompute for block in model] == modes


def test_an_unknown_recompute_is_refused_before_anything_is_swapped():
    model = own_energies()
    with pytest.raises(ValueError, match="must be one of none, residue, activation, but got 'all'"):
        trgl.split(model, 3, (4, 6, 6), 3, "linear", recompute="all")
    assert type(model[2]) is BasicBlock


def test_what_blocks_recompute_is_not_kept_for_backward():
    kept = {}
    for again in ("none", "residue", "activation"):
        model = trgl.models.chain(4, 8, 2, kernel_size=3, stride=1)
        net = trgl.split(model, 2, (2, 8, 8), 3, "linear", recompute=again)
        kept[again] = max(module.total for module in trgl.memory.count_network(net, 4))
    assert kept["none"] > kept["residue"] > kept["activation"]
