"""Which energy the blocks of a split network measure, and from what."""

import pytest
import torch
from small import CLASSES, SHAPE, sgd
from splits import chain2, own_energies
from torch import nn
from torchvision.models.resnet import BasicBlock
from torchvision.models.swin_transformer import SwinTransformerBlock
from torchvision.models.vision_transformer import EncoderBlock

import trgl
from trgl_kernels import (
    RegularizedBasicBlock,
    RegularizedPreActBlock,
    RegularizedResidual,
    collect_energy,
    regularize,
)


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


@pytest.mark.parametrize(("chosen", "kept"), [(None, "activation"), ("none", "none")])
def test_a_model_that_is_regularized_first_recomputes_as_one_that_is_not(chosen, kept):
    model = regularize(nn.Sequential(BasicBlock(4, 4)), recompute=chosen)
    net = trgl.split(model, 1, (4, 6, 6), 3, "linear")
    assert net[0].body.units[0].recompute == kept


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
