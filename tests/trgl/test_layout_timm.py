"""timm's models in modules; skipped where timm is not installed."""

import copy
import math

import pytest
import torch
from small import differing, sgd

import trgl
from trgl.layout import layout_of
from trgl.models import build

timm = pytest.importorskip("timm", reason="timm is not installed")

CLASSES = 3
VIT = {"img_size": 32, "patch_size": 4, "embed_dim": 16, "depth": 3, "num_heads": 2}


def vit(**options):
    return timm.models.VisionTransformer(**VIT, num_classes=CLASSES, **options)


def swin():
    return timm.models.SwinTransformer(
        img_size=32, patch_size=2, window_size=4, embed_dim=8, depths=(2, 2), num_heads=(2, 2),
        num_classes=CLASSES,
    )  # fmt: skip


def named(name):
    return lambda: timm.create_model(name, num_classes=CLASSES)


# model, its features in front of the classifier and its norm, blocks, energies, kind of energy
MODELS = {
    "resnet": (named("test_resnet"), lambda m, x: m.forward_features(x), 4, 4, "residue"),
    "vit": (vit, lambda m, x: m.blocks(m._pos_embed(m.patch_embed(x))), 3, 6, "residue"),
    "vit-registers": (
        lambda: vit(reg_tokens=2, no_embed_class=True, pre_norm=True),
        lambda m, x: m.blocks(m.norm_pre(m._pos_embed(m.patch_embed(x)))),
        3,
        6,
        "residue",
    ),
    "vit-without-class": (
        lambda: vit(class_token=False, global_pool="avg", pos_embed="none"),
        lambda m, x: m.blocks(m.patch_embed(x)),
        3,
        6,
        "residue",
    ),
    "swin": (swin, lambda m, x: m.layers(m.patch_embed(x)), 4, 8, "residue"),
    "convnext": (
        named("test_convnext"),
        lambda m, x: m.forward_features(x),
        9,
        9,
        "displacement",
    ),
    "regnet": (named("regnetx_002"), lambda m, x: m.forward_features(x), 13, 9, "displacement"),
    "efficientnet": (
        named("test_efficientnet"),
        lambda m, x: m.blocks(m.bn1(m.conv_stem(x))),
        5,
        1,
        "displacement",
    ),
}


def made(name):
    torch.manual_seed(0)
    model = MODELS[name][0]()
    for key, parameter in model.named_parameters():
        if key.endswith(".gamma"):  # a LayerScale of 1e-6 moves nothing that float32 shows
            torch.nn.init.constant_(parameter, 0.5)
    return model


def divided(model, name, modules=2, **options):
    options = {"head": "pool-linear", "energy": MODELS[name][4], "seed": 0, **options}
    return trgl.split(model, modules, (3, 32, 32), CLASSES, **options)


@pytest.mark.parametrize("name", MODELS)
def test_keys_outputs_and_energies(name):
    _, features_of, blocks, energies, _ = MODELS[name]
    model = made(name).eval()
    keys = set(model.state_dict())
    layout = layout_of(model)
    assert len(layout.blocks) == blocks
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = features_of(model, images)
    net = divided(model.train(), name).eval()
    found = {key: value for module in net for key, value in module.body.state_dict().items()}
    assert set(found) <= keys
    left = {key.split(".")[0] for key in keys - set(found)}
    assert left <= {"fc", "head", "norm", "fc_norm", "conv_head", "bn2", "classifier"}
    *_, (_, features, _) = net.walk(images)
    torch.testing.assert_close(features, expected)
    assert sum(module.energy_terms for module in net) == energies
    assert torch.equal(net.assemble()(images), net(images))
    twin = divided(made(name), name)
    twin.load_state_dict(net.state_dict())
    assert not differing(twin.state_dict(), net.state_dict())


@pytest.mark.parametrize("name", ["resnet", "vit-registers", "swin", "convnext"])
def test_they_train(name):
    net = divided(made(name), name, balance="memory")
    labels = torch.arange(8) % CLASSES
    data = [(torch.randn(8, 3, 32, 32) + labels.view(-1, 1, 1, 1), labels)]
    penalty = trgl.Transport(5.0)
    trainer = trgl.Trainer(net, optimizer=sgd, transport=penalty, epochs=10)
    records = trainer.fit(data).records
    losses = [record.train_loss[2] for record in records]
    assert all(map(math.isfinite, losses))
    assert losses[-1] < losses[0]
    # timm's residual branches begin at zero, and so do the costs
    assert all(cost > 0 for cost in records[-1].cost.values())


def test_models_by_name():
    model = build("timm:resnet10t", (1, 16, 16), CLASSES)
    twin = timm.create_model("resnet10t", in_chans=1, num_classes=CLASSES)
    assert [(k, v.shape) for k, v in model.state_dict().items()] == [
        (k, v.shape) for k, v in twin.state_dict().items()
    ]
    small = build("timm:vit_tiny_patch16_224", (3, 32, 32), CLASSES, patch=8, drop_path=0.1)
    assert small.pos_embed.shape == (1, 17, 192)
    assert small.blocks[-1].drop_path1.drop_prob == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("timm:resnet27x", {}, r"timm .* has no network 'resnet27x'"),
        ("timm:resnet10t", {"window": 7}, "timm cannot build resnet10t.*window_size"),
    ],
)
def test_what_timm_cannot_build_is_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        build(name, (3, 32, 32), CLASSES, **options)


def test_without_timm_it_is_asked_for(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(ValueError, match=r"pip install 'trgl\[timm\]'"):
        build("timm:resnet18", (3, 32, 32), CLASSES)


def changed(name, change):
    model = copy.deepcopy(made(name))
    change(model)
    return model


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("vit", lambda m: setattr(m, "dynamic_img_size", True), "resizes its table"),
        ("vit", lambda m: m.set_grad_checkpointing(), "checkpoints its stages"),
        ("vit", lambda m: m.blocks.register_forward_hook(print), "'blocks' of a VisionTrans"),
        ("vit", lambda m: setattr(m, "_pos_embed", print), "a _pos_embed of its own"),
        ("swin", lambda m: m.layers[0].register_forward_hook(print), "Stage with hooks"),
        ("regnet", lambda m: m.s2.register_forward_hook(print), "got RegStage with hooks"),
        ("resnet", lambda m: setattr(m, "forward_features", print), "forward_features of its own"),
    ],
)
def test_models_that_do_more_than_timms_are_refused(name, change, message):
    with pytest.raises(ValueError, match=message):
        layout_of(changed(name, change))
