"""Models that tell their own layout, held against a run of them."""

import pytest
import torch
from small import CLASSES, SHAPE, batches, sgd
from torch import nn

import trgl
from trgl_kernels import RegularizedResidual, collect_energy


class Net(nn.Module):
    """A stem, three residual blocks, a classifier; `wrong` says what its forward or layout does."""

    def __init__(self, wrong=""):
        super().__init__()
        self.wrong = wrong
        self.entry = nn.Sequential(nn.Conv2d(SHAPE[0], 4, 3, padding=1), nn.ReLU(inplace=True))
        self.blocks = nn.ModuleList(
            RegularizedResidual(nn.Conv2d(4, 4, 3, padding=1)) for _ in range(3)
        )
        self.classifier = nn.Linear(4, CLASSES)

    def forward(self, images):
        x = self.entry(images)
        if self.wrong == "overwrites":
            x.mul_(2)
        order = [1, 0, 2] if self.wrong == "order" else [0, 1, 2]
        for k in order[: 2 if self.wrong == "skips" else 3]:
            x = self.blocks[k](x)
            if self.wrong == "between":
                x = x.relu()
        if self.wrong == "fails":
            raise RuntimeError("out of order")
        return self.classifier(x.mean((2, 3)))

    def layout(self):
        if self.wrong == "type":
            return ["entry"]
        blocks = {
            "unknown": ["blocks.0", "blocks.7"],
            "twice": ["blocks.0", ["blocks.0"]],
            "empty": [],
            "empty block": [["blocks.0"], []],
        }.get(self.wrong, ["blocks.0", ("blocks.1", "blocks.2")])
        return trgl.Layout(stem="entry", blocks=blocks)


def test_a_layout_is_what_the_model_runs() -> None:
    torch.manual_seed(0)
    model = Net().eval()
    images = torch.randn(2, *SHAPE)
    wanted = model.entry(images)
    for block in model.blocks:
        wanted = block(wanted)
    net = trgl.split(model, 2, SHAPE, CLASSES, "pool-linear").eval()
    features = [x for _, x, _ in net.walk(images)]
    assert torch.equal(features[-1], wanted)
    assert net[0].body.names == ["entry", "blocks.0"]
    assert net[1].body.names == ["blocks.1", "blocks.2"]
    assert [module.energy_terms for module in net] == [1, 2]
    keys = [key for key in model.state_dict() if not key.startswith("classifier")]
    assert [key for key in net.assemble().state_dict() if not key.startswith("head")] == keys


@pytest.mark.parametrize("balance", ["depth", "memory"])
def test_a_stem_takes_no_displacement_away(balance: str) -> None:
    class Plain(Net):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList(
                nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()) for _ in range(3)
            )

        def layout(self):
            return trgl.Layout(stem="entry", blocks=[f"blocks.{k}" for k in range(3)])

    net = trgl.split(
        Plain(), 3, SHAPE, CLASSES, "pool-linear", energy="displacement", balance=balance
    )
    assert [module.energy_terms for module in net] == [1, 1, 1]
    images = torch.randn(2, *SHAPE)
    with collect_energy() as energies:
        net[0].body(images)
    model = Plain()
    model.load_state_dict(net.assemble().state_dict(), strict=False)
    x = model.entry(images)
    expected = (model.blocks[0](x) - x).square().flatten(1).sum(1)
    torch.testing.assert_close(energies.energies[0], expected)


def test_it_trains_with_its_stem_as_an_encoder() -> None:
    net = trgl.split(Net(), 2, SHAPE, CLASSES, "pool-linear", encoder="stem", freeze_encoder=True)
    net.calibrate(batches())
    records = (
        trgl.Trainer(net, "sequential", optimizer=sgd, transport=trgl.Transport(0.5), epochs=2)
        .fit(batches())
        .records
    )
    assert set(records[-1].cost) == {2}


def test_a_given_encoder_takes_the_place_of_its_stem() -> None:
    encoder = nn.Sequential(nn.Conv2d(SHAPE[0], 4, 1), nn.Flatten(2), nn.Unflatten(2, (6, 6)))
    net = trgl.split(Net(), 2, SHAPE, CLASSES, "pool-linear", encoder=encoder)
    assert net[0].body.names == ["blocks.0"]


def test_blocks_that_are_not_regularized_have_a_displacement() -> None:
    class Shift(nn.Module):
        def __init__(self):
            super().__init__()
            self.move = nn.Conv2d(4, 4, 1)

        def forward(self, x):
            return x + self.move(x).tanh()

    model = Net()
    model.blocks = nn.ModuleList(Shift() for _ in range(3))
    net = trgl.split(model, 2, SHAPE, CLASSES, "pool-linear", energy="displacement")
    assert [module.energy_terms for module in net] == [1, 2]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("between", "what enters 'blocks.1' of Net is not the features of 'blocks.0' as they came"),
        ("overwrites", "what enters 'blocks.0' of Net is not the features of 'entry'"),
        ("order", "'blocks.1' runs where the layout has 'blocks.0'"),
        ("skips", "3 of the layout's 4 layers run"),
        ("fails", r"fails with: out of order\. Check input_shape"),
        ("type", "that of Net returned list. Return trgl.Layout"),
        ("unknown", "has 'blocks.7', which Net does not have"),
        ("twice", "has 'blocks.0' twice"),
        ("empty", "at least one block"),
        ("empty block", r"has \[\['blocks.0'\], \[\]\]"),
    ],
)
def test_a_layout_that_is_not_so_is_refused(wrong, message) -> None:
    model = Net(wrong)
    with pytest.raises(ValueError, match=message):
        trgl.split(model, 1, SHAPE, CLASSES, "pool-linear")
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in model.modules())
    assert all(layer.training for layer in model.modules())


def test_a_model_without_a_layout_is_told_how_to_say_it() -> None:
    class Silent(nn.Module):
        pass

    with pytest.raises(ValueError, match="give it a method `layout`"):
        trgl.split(Silent(), 1, SHAPE, CLASSES)
