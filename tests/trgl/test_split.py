import copy
import sys

import pytest
import torch
import torchvision
from small import CLASSES, SHAPE, differing, sgd, state
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet
from torchvision.models.swin_transformer import SwinTransformerBlock
from torchvision.models.vision_transformer import EncoderBlock

import trgl
from trgl_kernels import (
    RegularizedBasicBlock,
    RegularizedBottleneck,
    RegularizedPreActBlock,
    RegularizedResidual,
    collect_energy,
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


def plain_layers():
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(2, 2, 1), nn.ReLU()),
        *(nn.Conv2d(2, 4, 1), nn.ReLU()),
    )


def test_displacement_is_measured_after_the_activation_of_layers_that_keep_their_shape():
    model = plain_layers()
    net = trgl.split(model, 3, (2, 8, 8), CLASSES, "linear", energy="displacement")
    assert [module.energy_terms for module in net] == [1, 1, 0]
    assert [module.body.measured for module in net] == [((0, 2),), ((0, 1),), ()]
    x = torch.randn(3, 2, 8, 8)
    y = model[:3].eval()(x)
    with collect_energy() as energies:
        net[0].eval()(x)
    torch.testing.assert_close(energies.total("sum"), (y - x).square().flatten(1).sum(1).mean())
    torch.testing.assert_close(energies.total("mean"), (y - x).square().mean())


def test_blocks_measure_their_displacement_themselves():
    x = torch.randn(3, 4, 6, 6)
    model = nn.Sequential(*(RegularizedBasicBlock(4, 4) for _ in range(2))).eval()
    net = trgl.split(model, 1, (4, 6, 6), CLASSES, energy="displacement").eval()
    middle = model[0](x)
    expected = (middle - x).square().mean() + (model[1](middle) - middle).square().mean()
    with collect_energy() as energies:
        net(x)
    torch.testing.assert_close(energies.total(), expected)


def test_module_energy_is_the_displacement_of_the_module_as_a_whole():
    model = trgl.models.chain(4, 4, 2, kernel_size=3, stride=1)
    net = trgl.split(model, 2, SHAPE, CLASSES, energy="module", encoder="stem").eval()
    assert [module.energy_terms for module in net] == [1, 1]
    x = torch.randn(3, 4, 6, 6)
    y = net[1].body(x)
    with collect_energy() as energies:
        net[1](x)
    assert len(energies) == 1
    torch.testing.assert_close(energies.total("sum"), (y - x).square().flatten(1).sum(1).mean())


def test_module_energy_names_the_module_that_changes_its_shape():
    with pytest.raises(ValueError, match=r"module 1 maps \(2, 6, 6\) to \(4, 6, 6\)"):
        trgl.split(
            trgl.models.chain(2, 4, 2, kernel_size=3, stride=1), 2, SHAPE, 3, energy="module"
        )
    with pytest.raises(ValueError, match="module 2 maps"):
        trgl.split(
            trgl.models.wide_resnet(2, 4), 2, (3, 32, 32), 3, energy="module", encoder="stem"
        )


@pytest.mark.parametrize("energy", ["displacement", "module"])
def test_a_layer_that_overwrites_its_input_cannot_be_measured(energy):
    model = nn.Sequential(nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(2, 2, 1)))
    with pytest.raises(ValueError, match="inplace=False"):
        trgl.split(model, 1, (2, 4, 4), 3, energy=energy)


def test_blocks_of_ones_own_are_counted():
    model = nn.Sequential(*(RegularizedResidual(nn.Linear(4, 4)) for _ in range(3)))
    net = trgl.split(model, 3, (4,), 2, "linear")
    assert [module.energy_terms for module in net] == [1, 1, 1]
    assert [block.recompute for block in model] == ["activation"] * 3
    bare = trgl.split(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), 2, (4,), 2, "linear")
    assert [module.energy_terms for module in bare] == [0, 0]


def test_an_encoder_is_split_off_or_put_in_the_stems_place():
    def model():
        return trgl.models.chain(2, 4, 2, kernel_size=3, stride=1)

    trained = trgl.split(model(), 2, SHAPE, CLASSES, ["mlp", "conv", "linear"], encoder="stem")
    assert isinstance(trained.encoder, trgl.GreedyModule)
    assert trained.encoder.body.names == ["encoder.0", "encoder.1", "encoder.2"]
    assert [type(m.head[0]).__name__ for _, m in trained.trained] == [
        "Flatten",
        "Conv2d",
        "Flatten",
    ]
    assert type(trained.encoder.head[2]) is nn.BatchNorm1d
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


def chain2():
    return trgl.models.chain(2, 4, 2, kernel_size=3, stride=1)


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


class Residual(nn.Module):
    """A block of one's own, which reports no energy."""

    def __init__(self, inplace=False):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.relu = nn.ReLU(inplace)

    def forward(self, x):
        return x + self.conv(self.relu(x))


def test_displacement_is_that_of_each_block_whatever_stands_in_front_of_it():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), Residual(), Residual(), nn.Flatten())
    net = trgl.split(model, 1, (2, 8, 8), CLASSES, "linear", energy="displacement")
    assert net[0].energy_terms == 2
    x = torch.randn(3, 2, 8, 8)
    a = model[:2](x)
    b = model[2](a)
    c = model[3](b)
    with collect_energy() as energies:
        net(x)
    expected = (b - a).square().mean() + (c - b).square().mean()
    torch.testing.assert_close(energies.total(), expected)
    two = nn.Sequential(nn.Conv2d(2, 4, 3), Residual(), Residual())
    net = trgl.split(two, 2, (2, 8, 8), CLASSES, "linear", energy="displacement")
    assert [module.energy_terms for module in net] == [1, 1]


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (lambda: [nn.Conv2d(4, 4, 1), Residual(inplace=True)], "module 1 changes that of '1'"),
        (lambda: [Residual(), nn.ReLU(inplace=True)], "'1' in module 1 does"),
        (lambda: [Residual(), nn.Flatten(), nn.ReLU(inplace=True)], "'2' in module 1 does"),
    ],
)
def test_what_a_displacement_is_measured_from_may_not_be_overwritten(layers, message):
    with pytest.raises(ValueError, match=message + ".*inplace=False"):
        trgl.split(nn.Sequential(*layers()), 1, (4, 6, 6), 3, "linear", energy="displacement")


@pytest.mark.parametrize(
    "first",
    [
        lambda: nn.ReLU(inplace=True),
        lambda: nn.Dropout(0.5, inplace=True),
        lambda: nn.Sequential(nn.Flatten(), nn.ReLU(inplace=True)),
    ],
)
def test_a_head_that_overwrites_the_features_is_refused(first):
    def head(shape, classes):
        return nn.Sequential(first(), nn.Flatten(), nn.Linear(4 * 6 * 6, classes))

    model = chain2()
    generator = torch.get_rng_state()
    with pytest.raises(ValueError, match=r"that of module 1 changes them.*inplace=False"):
        trgl.split(model, 2, SHAPE, 3, head, seed=0)
    assert torch.equal(torch.get_rng_state(), generator)


def own_energies():
    blocks = [RegularizedBasicBlock(4, 4), RegularizedBasicBlock(4, 4), BasicBlock(4, 4)]
    blocks[0].energy = "displacement"
    return nn.Sequential(*blocks)


@pytest.mark.parametrize(
    ("energy", "expected"),
    [
        (None, ["displacement", "residue", "residue"]),
        ("module", ["displacement", "residue", "residue"]),
        ("residue", ["residue"] * 3),
        ("displacement", ["displacement"] * 3),
    ],
)
def test_regularized_blocks_keep_their_energy_unless_one_is_asked_for(energy, expected):
    net = trgl.split(own_energies(), 3, (4, 6, 6), 3, "linear", energy=energy)
    assert [module.body.units[0].energy for module in net] == expected
    assert isinstance(net[2].body.units[0], RegularizedBasicBlock)


def test_blocks_keep_nothing_that_can_be_built_again_unless_told_otherwise():
    blocks = [BasicBlock(4, 4), RegularizedPreActBlock(4, 4), RegularizedBasicBlock(4, 4)]
    blocks[2].with_recompute("none")
    net = trgl.split(nn.Sequential(*blocks), 3, (4, 6, 6), 3, "linear")
    assert [module.body.units[0].recompute for module in net] == ["activation"] * 2 + ["none"]


class Overwritten(nn.Module):
    """A pre-activation block whose output is overwritten by the layer around it."""

    def __init__(self) -> None:
        super().__init__()
        self.block = RegularizedPreActBlock(4, 4)

    def forward(self, x):
        return self.block(x).relu_()


@pytest.mark.parametrize(
    "after",
    [
        lambda: [nn.ReLU(inplace=True)],
        lambda: [nn.Identity(), nn.ReLU(inplace=True)],
        lambda: [nn.Dropout(0.0), nn.ReLU(inplace=True)],
        lambda: [nn.Flatten(2), nn.ReLU(inplace=True)],
        lambda: [nn.Dropout(0.5, inplace=True)],
        lambda: [Overwritten()],
    ],
)
@pytest.mark.parametrize("regime", ["parallel", "end-to-end"])
def test_a_block_whose_output_is_overwritten_keeps_its_residue(after, regime):
    blocks = [RegularizedPreActBlock(4, 4), RegularizedPreActBlock(4, 4)]
    layers = [*blocks, *after()]
    net = trgl.split(nn.Sequential(*layers), 2, (4, 6, 6), 3, "linear")
    inner = [m for m in layers[2].modules() if isinstance(m, RegularizedPreActBlock)]
    assert [b.recompute for b in (*blocks, *inner)].count("none") == 1
    batch = torch.randn(2, 4, 6, 6), torch.tensor([0, 2])
    trainer = trgl.Trainer(net, regime, optimizer=sgd, transport=trgl.Transport(0.5), epochs=1)
    trainer.fit([batch])


def test_a_block_inside_a_block_keeps_what_was_chosen():
    inside = RegularizedResidual(nn.Conv2d(4, 4, 1), energy="displacement")
    inside.with_recompute("residue")
    model = nn.Sequential(BasicBlock(4, 4, downsample=inside))
    trgl.split(model, 1, (4, 6, 6), 3, "linear")
    assert (inside.energy, inside.recompute) == ("displacement", "residue")
    assert (model[0].energy, model[0].recompute) == ("residue", "activation")


def test_blocks_of_every_known_kind_are_regularized():
    kinds = [SwinTransformerBlock(4, 1, [2, 2], [1, 1]), EncoderBlock(1, 4, 8, 0.0, 0.0)]
    for block, shape in zip(kinds, [(4, 4, 4), (9, 4)], strict=True):
        net = trgl.split(nn.Sequential(block), 1, shape, 3, "linear")
        assert [module.energy_terms for module in net] == [2]


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
