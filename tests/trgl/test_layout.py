from collections import OrderedDict

import pytest
import torchvision
from torch import nn

from trgl.layout import layout_of
from trgl_kernels import RegularizedResidual


def conv():
    return nn.Conv2d(2, 2, 3, padding=1)


def bn():
    return nn.BatchNorm2d(2)


def residual():
    return RegularizedResidual(nn.Conv2d(2, 2, 1))


def test_a_resnet_has_its_stem_and_its_residual_blocks():
    layout = layout_of(torchvision.models.resnet18())
    assert layout.stem == ("conv1", "bn1", "relu", "maxpool")
    assert layout.blocks == tuple((f"layer{i}.{j}",) for i in (1, 2, 3, 4) for j in (0, 1))


@pytest.mark.parametrize(
    ("layers", "stem", "blocks"),
    [
        ([conv()], [], ["0"]),
        ([conv(), bn(), nn.ReLU(), conv(), nn.ReLU()], [], ["0 1 2", "3 4"]),
        ([conv(), nn.MaxPool2d(2), conv(), nn.Flatten(), nn.Linear(2, 2)], [], ["0 1", "2 3", "4"]),
        ([bn(), nn.ReLU(), conv(), bn(), nn.ReLU(), conv()], [], ["0 1 2 3 4", "5"]),
        ([nn.Sequential(conv(), bn()), nn.Sequential(conv(), bn())], [], ["0.0 0.1", "1.0 1.1"]),
        ([nn.Sequential(conv(), conv()), nn.ReLU(), conv()], [], ["0.0 0.1 1", "2"]),
        ([nn.ReLU(), nn.Sequential(bn(), conv())], [], ["0 1.0 1.1"]),
        ([residual(), residual()], [], ["0", "1"]),
        ([conv(), bn(), residual(), residual()], ["0", "1"], ["2", "3"]),
        ([residual(), conv(), residual(), nn.ReLU()], [], ["0", "1 2 3"]),
        (
            [nn.Sequential(conv(), bn()), nn.Sequential(residual(), residual()), residual()],
            ["0.0", "0.1"],
            ["1.0", "1.1", "2"],
        ),
    ],
)
def test_the_blocks_of_a_sequential(layers, stem, blocks):
    layout = layout_of(nn.Sequential(*layers))
    assert list(layout.stem) == stem
    assert [" ".join(block) for block in layout.blocks] == blocks


def test_a_sequential_that_does_more_than_run_its_children_is_left_whole():
    class Twice(nn.Sequential):
        def forward(self, x):
            return super().forward(super().forward(x))

    hooked = nn.Sequential(conv(), bn())
    hooked.register_forward_hook(lambda *_: None)
    layers = OrderedDict(a=Twice(conv(), bn()), b=hooked)
    assert layout_of(nn.Sequential(layers)).blocks == (("a",), ("b",))


def test_the_same_layer_twice_stands_twice():
    layer = conv()
    assert layout_of(nn.Sequential(layer, layer)).blocks == (("0",), ("1",))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Sequential(), "Put layers into it"),
        (nn.Linear(2, 2), "got Linear"),
        (nn.MultiheadAttention(4, 1), "Wrap the layers"),
    ],
)
def test_models_whose_order_is_unknown_are_refused(model, message):
    with pytest.raises(ValueError, match=message):
        layout_of(model)


class Twice(torchvision.models.ResNet):
    def _forward_impl(self, x):
        return super()._forward_impl(super()._forward_impl(x))


class Reversed(nn.Sequential):
    def forward(self, x):
        for layer in reversed(self):
            x = layer(x)
        return x


def resnet(kind=torchvision.models.ResNet):
    return kind(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1])


def with_own_forward(model):
    model.forward = lambda x: x


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model: setattr(model, "__class__", Twice), "got Twice with a _forward_impl of its"),
        (with_own_forward, "with a forward of its own"),
        (lambda model: model.register_forward_hook(print), "with hooks.*Remove it"),
        (lambda model: model.layer2.register_forward_pre_hook(print), "'layer2'.*hooks"),
        (lambda model: setattr(model, "layer3", Reversed(*model.layer3)), "'layer3' is Reversed"),
        (lambda model: setattr(model, "layer4", nn.Identity()), r"nn.Sequential\(\*blocks\)"),
        (lambda model: setattr(model, "maxpool", None), "Put nn.Identity"),
    ],
)
def test_a_resnet_that_does_more_than_torchvisions_is_refused(change, message):
    model = resnet()
    change(model)
    with pytest.raises(ValueError, match=message):
        layout_of(model)


def test_a_resnet_may_lack_a_stage_but_not_all():
    model = resnet()
    model.layer4 = nn.Sequential()
    assert len(layout_of(model).blocks) == 3
    for stage in ("layer1", "layer2", "layer3"):
        setattr(model, stage, nn.Sequential())
    with pytest.raises(ValueError, match="without blocks"):
        layout_of(model)


def test_a_hooked_sequential_says_so():
    model = nn.Sequential(conv())
    model.register_forward_hook(print)
    with pytest.raises(ValueError, match=r"with hooks.*nn\.Sequential\(\*model\)"):
        layout_of(model)
