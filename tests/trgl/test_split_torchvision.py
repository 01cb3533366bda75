"""torchvision's models in modules: their keys, their outputs, and training."""

import copy
import math

import pytest
import torch
import torchvision
from small import differing, sgd, state
from torch import nn
from torchvision.models import efficientnet, mobilenetv2, resnet, swin_transformer, vgg
from torchvision.models.vision_transformer import VisionTransformer

import trgl
from trgl.body import Body
from trgl.layout import layout_of
from trgl.tokens import ClassToken
from trgl_kernels import regularize

CLASSES = 3


def swin(version=1, drop=0.0):
    kind = {
        1: (swin_transformer.SwinTransformerBlock, swin_transformer.PatchMerging),
        2: (swin_transformer.SwinTransformerBlockV2, swin_transformer.PatchMergingV2),
    }[version]
    return swin_transformer.SwinTransformer(
        [2, 2], 8, [2, 2], [2, 4], [2, 2], 2.0, 0.0, 0.0, drop, CLASSES, None, *kind
    )


def mbconv():
    config = efficientnet.MBConvConfig
    settings = [config(1, 3, 1, 8, 8, 1), config(2, 3, 2, 8, 16, 2)]
    return efficientnet.EfficientNet(settings, 0.1, num_classes=CLASSES, last_channel=24)


def mobile():
    settings = [[1, 16, 1, 1], [2, 16, 2, 2], [2, 24, 2, 1]]
    return mobilenetv2.MobileNetV2(
        CLASSES, width_mult=0.5, inverted_residual_setting=settings, round_nearest=4
    )


MODELS = {
    "resnext": (
        lambda: resnet.ResNet(
            resnet.Bottleneck, [1, 2, 1, 1], CLASSES, groups=2, width_per_group=4
        ),
        "conv1 bn1 relu maxpool",
        ["layer1.0", "layer2.0", "layer2.1", "layer3.0", "layer4.0"],
    ),
    "vgg": (
        lambda: vgg.VGG(vgg.make_layers([8, 8, "M", 16, 16, "M"], True), CLASSES),
        "",
        [
            "features.0 features.1 features.2",
            "features.3 features.4 features.5 features.6",
            "features.7 features.8 features.9",
            "features.10 features.11 features.12 features.13",
        ],
    ),
    "mobilenet": (
        mobile,
        "features.0.0 features.0.1 features.0.2",
        [
            *(f"features.{k}" for k in range(1, 5)),
            "features.5 features.6.0 features.6.1 features.6.2",
        ],
    ),
    "efficientnet": (
        mbconv,
        "features.0.0 features.0.1 features.0.2",
        [
            "features.1.0",
            "features.2.0",
            "features.2.1 features.3.0 features.3.1 features.3.2",
        ],
    ),
    "swin": (
        swin,
        "features.0.0 features.0.1 features.0.2",
        ["features.1.0", "features.1.1", "features.2 features.3.0", "features.3.1"],
    ),
    "swin-v2": (
        lambda: swin(2, 0.1),
        "features.0.0 features.0.1 features.0.2",
        ["features.1.0", "features.1.1", "features.2 features.3.0", "features.3.1"],
    ),
    "vit": (
        lambda: VisionTransformer(16, 4, 3, 2, 8, 16, num_classes=CLASSES),
        "conv_proj to_tokens class_token encoder.pos_embedding encoder.dropout",
        [f"encoder.layers.encoder_layer_{k}" for k in range(3)],
    ),
}
CLASSIFIERS = ("fc.", "classifier.", "norm.", "head.", "heads.", "encoder.ln.")


def last_blocks_output(model, images):
    """What a model computes in front of its classifier."""
    found = []
    place = {"features": "features", "encoder": "encoder.layers", "layer4": "layer4"}
    name = next(place[key] for key in place if hasattr(model, key))
    last = model.get_submodule(name)
    with torch.no_grad():
        if name == "features":
            return last(images)
        handle = last.register_forward_hook(lambda m, i, o: found.append(o))
        model(images)
        handle.remove()
    return found[0]


def build(name):
    torch.manual_seed(0)
    model = MODELS[name][0]()
    for module in model.modules():  # statistics that do something
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model


def divided(model, name, modules=3, **options):
    energy = "displacement" if name == "vgg" else "residue"
    options = {"head": "pool-linear", "energy": energy, "seed": 0, **options}
    return trgl.split(model, modules, (3, 16, 16), CLASSES, **options)


@pytest.mark.parametrize("name", MODELS)
def test_stem_and_blocks(name):
    _, stem, blocks = MODELS[name]
    layout = layout_of(build(name))
    assert " ".join(layout.stem) == stem
    assert [" ".join(block) for block in layout.blocks] == blocks


@pytest.mark.parametrize("name", MODELS)
def test_keys_and_outputs_are_those_of_the_model(name):
    model = build(name)
    images = torch.randn(2, 3, 16, 16)
    expected = last_blocks_output(model.eval(), images)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    net = divided(model.train(), name).eval()

    found = {key: value for module in net for key, value in module.body.state_dict().items()}
    assert set(found) == {key for key in before if not key.startswith(CLASSIFIERS)}
    assert all(torch.equal(found[key], before[key]) for key in found)
    parameters = {id(p) for p in model.parameters()}
    assert all(id(p) in parameters for module in net for p in module.body.parameters())

    features, *_ = [f for k, f, _ in net.walk(images) if k == 3]
    torch.testing.assert_close(features, expected)
    logits = net.all_logits(images)
    assert [tuple(one.shape) for one in logits] == [(2, CLASSES)] * 3

    assembled = copy.deepcopy(net.assemble())
    assert torch.equal(assembled(images), logits[-1])
    keys = {key for key in assembled.state_dict() if not key.startswith("head.")}
    assert keys == set(found)
    short = net.assemble(1)
    assert torch.equal(short(images), logits[0])

    # weights of another model of the same kind load, key by key
    torch.manual_seed(1)
    weights = {k: torch.rand_like(v) if v.is_floating_point() else v for k, v in before.items()}
    weights = {k: v for k, v in weights.items() if k in keys}
    heads = {k: v for k, v in assembled.state_dict().items() if k.startswith("head.")}
    assembled.load_state_dict(weights | heads)
    assert not differing(weights, {k: v for k, v in assembled.state_dict().items() if k in keys})


@pytest.mark.parametrize(
    ("name", "encoder"),
    [(n, e) for n in MODELS for e in (None, "stem") if e is None or MODELS[n][1]],
)
def test_they_train(name, encoder):
    net = divided(build(name), name, 2, encoder=encoder)
    before = state(net)
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(12) % CLASSES
    images = torch.randn(12, 3, 16, 16, generator=generator) + labels.view(-1, 1, 1, 1)
    data = list(zip(images.split(6), labels.split(6), strict=True))
    trainer = trgl.Trainer(
        net, "sequential", optimizer=sgd, transport=trgl.Transport(5.0), epochs=2, cache="memory"
    )
    history = trainer.fit(data)
    assert all(math.isfinite(v) for r in history.records for v in r.train_loss.values())
    assert all(v > 0 for r in history.records for v in r.cost.values())
    moved = differing(before, state(net))
    for number, module in net.trained:  # stem, blocks and head
        prefix = "encoder." if number == 0 else f"stages.{number - 1}."
        for unit in (*module.body.names, "head"):
            part = module.head if unit == "head" else module.body.get_submodule(unit)
            if any(p.requires_grad for p in part.parameters()):
                start = f"{prefix}{unit}" if unit == "head" else f"{prefix}body.{unit}"
                assert any(name.startswith(start) for name in moved), start


@pytest.mark.parametrize("name", MODELS)
def test_they_are_balanced_by_memory(name):
    net = divided(build(name), name, balance="memory")
    units = [unit for module in net for unit in module.body.names]
    _, stem, blocks = MODELS[name]
    assert " ".join(units) == " ".join([stem, *blocks]).strip()


def test_a_swin_in_one_module_with_its_own_classifier_is_the_swin():
    model = build("swin").eval()
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        expected = model(images)
    net = divided(model, "swin", 1).eval()
    net[0].head.norm.load_state_dict(model.norm.state_dict())
    net[0].head.linear.load_state_dict(model.head.state_dict())
    torch.testing.assert_close(net(images), expected)


@pytest.mark.parametrize("size", [(3, 16, 16), (3, 16, 24)])
def test_maps_with_channels_last_get_heads_over_their_channels(size):
    net = trgl.split(build("swin"), 2, size, CLASSES, "pool-linear")
    assert [module.head.norm.normalized_shape for module in net] == [(8,), (16,)]
    net = trgl.split(build("swin"), 2, size, CLASSES, ["linear", "pool-linear"])
    assert net[1].head.linear.in_features == 16
    with pytest.raises(ValueError, match=r"Head 'conv' needs feature maps \(C, H, W\)"):
        trgl.split(build("swin"), 2, size, CLASSES)


def test_a_vit_takes_the_images_it_was_built_for():
    with pytest.raises(ValueError, match=r"its layer 'encoder.pos_embedding'"):
        trgl.split(build("vit"), 2, (3, 32, 32), CLASSES, "pool-linear")


def test_a_class_token_is_loaded_by_its_own_name():
    body = copy.deepcopy(Body([("a.class_token", ClassToken(nn.Parameter(torch.zeros(1, 1, 2))))]))
    assert list(body.state_dict()) == ["a.class_token"]
    assert list(body.state_dict(keep_vars=True).values()) == list(body.parameters())
    body.load_state_dict({"a.class_token": torch.ones(1, 1, 2)})
    assert next(body.parameters()).eq(1).all()
    with pytest.raises(RuntimeError, match=r"Missing key.*a\.class_token"):
        body.load_state_dict({})
    with pytest.raises(RuntimeError, match=r'Unexpected key.*"other"'):
        body.load_state_dict({"a.class_token": torch.ones(1, 1, 2), "other": torch.ones(1)})
    with pytest.raises(RuntimeError, match=r"size mismatch for a\.class_token"):
        body.load_state_dict({"a.class_token": torch.ones(1, 1, 3)})


class Twice(vgg.VGG):
    def forward(self, x):
        return super().forward(x) * 2


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("vgg", lambda m: setattr(m, "__class__", Twice), "got Twice with a forward of its own"),
        ("vgg", lambda m: regularize(m, energy="displacement"), "split before regularizing"),
        ("vgg", lambda m: setattr(m, "features", nn.Sequential()), "VGG without layers"),
        ("swin", lambda m: m.features.register_forward_hook(print), "'features' .* with hooks"),
        ("vit", lambda m: m.encoder.register_forward_hook(print), "got Encoder with hooks"),
        ("vit", lambda m: setattr(m, "_process_input", print), "a _process_input of its own"),
        ("vit", lambda m: m.encoder.layers.register_forward_hook(print), "'encoder.layers' of a"),
        ("mobilenet", lambda m: m.register_forward_hook(print), "A MobileNetV2 .* with hooks"),
    ],
)
def test_models_that_do_more_than_torchvisions_are_refused(name, change, message):
    model = build(name)
    change(model)
    with pytest.raises(ValueError, match=message):
        layout_of(model)


def test_other_models_are_refused_by_name():
    with pytest.raises(ValueError, match=r"or an nn\.Sequential.*got GoogLeNet"):
        layout_of(torchvision.models.googlenet(init_weights=False))
