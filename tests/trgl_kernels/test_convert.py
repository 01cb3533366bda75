"""regularize: torchvision's models, in place, with everything kept."""

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
import torchvision
from oracle import gradients
from torch import Tensor, nn
from torchvision.models import efficientnet, resnet, swin_transformer

from trgl_kernels import RegularizedBasicBlock, RegularizedBottleneck, collect_energy, regularize
from trgl_kernels.blocks import Regularized


def blocks(model: nn.Module) -> list[Regularized]:
    return [m for m in model.modules() if isinstance(m, Regularized)]


@pytest.mark.parametrize(
    ("name", "count"),
    [("resnet18", 8), ("resnet50", 16), ("resnext50_32x4d", 16), ("wide_resnet50_2", 16)],
)
def test_outputs_and_keys_stay(name, count) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = getattr(torchvision.models, name)(num_classes=7).eval()
    x = torch.randn(2, 3, 40, 40)
    keys, parameters = list(model.state_dict()), dict(model.named_parameters())
    with torch.no_grad():
        expected = model(x)
        converted = regularize(model)
        assert converted is model
        with collect_energy() as energies:
            torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)
    assert len(energies) == len(blocks(model)) == count
    assert list(model.state_dict()) == keys
    assert all(parameters[k] is p for k, p in model.named_parameters())


def test_training_follows_torchvision() -> None:
    torch.manual_seed(0)
    plain = torchvision.models.resnet18(num_classes=3)
    ours = torchvision.models.resnet18(num_classes=3)
    ours.load_state_dict(plain.state_dict())
    regularize(ours)
    images, labels = torch.randn(8, 3, 32, 32), torch.randint(3, (8,))
    losses = []
    for model in (plain, ours):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
        losses.append([])
        for _ in range(4):
            loss = nn.functional.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_hooks_modes_and_buffers_are_kept() -> None:
    model = torchvision.models.resnet18(num_classes=3)
    model.layer1.eval()
    calls: list[int] = []
    model.layer1[0].register_forward_hook(lambda *args: calls.append(1))
    regularize(model)
    assert not model.layer1[0].training
    assert model.layer2[0].training
    model(torch.randn(2, 3, 32, 32))
    assert calls == [1]


def test_a_block_alone_is_returned_as_its_twin() -> None:
    assert isinstance(regularize(resnet.BasicBlock(4, 4)), RegularizedBasicBlock)
    assert isinstance(regularize(resnet.Bottleneck(4, 1)), RegularizedBottleneck)


def test_a_block_with_two_names_stays_one_block() -> None:
    shared = resnet.BasicBlock(4, 4)
    model = regularize(nn.Sequential(shared, nn.Identity(), shared))
    assert model[0] is model[2]
    assert isinstance(model[0], RegularizedBasicBlock)


def test_whatever_refers_to_a_block_still_does() -> None:
    block = resnet.BasicBlock(4, 4)
    calls: list[str] = []
    block.register_load_state_dict_pre_hook(lambda *args: calls.append("loaded"))
    model = nn.Sequential(block)
    order = [block]
    regularize(model)
    with collect_energy() as energies:
        order[0](torch.randn(2, 4, 5, 5))
    assert len(energies) == 1
    model.load_state_dict(model.state_dict())
    assert calls == ["loaded"]


def test_subclasses_with_a_forward_of_their_own_are_left_alone() -> None:
    class Other(resnet.BasicBlock):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    model = regularize(nn.Sequential(Other(4, 4), resnet.BasicBlock(4, 4)))
    assert type(model[0]) is Other


def test_again_changes_only_the_energy_and_what_is_kept() -> None:
    model = regularize(nn.Sequential(resnet.BasicBlock(4, 4)))
    block = model[0]
    assert (block.energy, block.recompute) == ("residue", "none")
    assert regularize(model, "activation", "displacement")[0] is block
    assert (block.energy, block.recompute) == ("displacement", "activation")
    regularize(model)
    assert (block.energy, block.recompute) == ("residue", "activation")


def efficient(kind: str, drop: float) -> nn.Module:
    config = getattr(efficientnet, f"{kind}Config")
    settings = [config(1, 3, 1, 8, 8, 1), config(4, 3, 2, 8, 12, 2)]
    return torchvision.models.EfficientNet(settings, 0.0, drop, num_classes=5, last_channel=16)


def swin(version: str, drop: float) -> nn.Module:
    options = {"embed_dim": 8, "depths": [2, 1], "num_heads": [1, 2], "num_classes": 5}
    if version:
        block, merging = "SwinTransformerBlockV2", "PatchMergingV2"
        options |= {"block": getattr(swin_transformer, block)}
        options |= {"downsample_layer": getattr(swin_transformer, merging)}
    return torchvision.models.SwinTransformer(
        patch_size=[2, 2], window_size=[4, 4], stochastic_depth_prob=drop, **options
    )


def vit(dropout: float) -> nn.Module:
    return torchvision.models.VisionTransformer(16, 4, 2, 2, 8, 16, dropout, num_classes=5)


def mobile() -> nn.Module:
    settings = [[1, 8, 1, 1], [4, 8, 2, 2], [4, 16, 2, 1]]
    return torchvision.models.MobileNetV2(
        5, inverted_residual_setting=settings, round_nearest=4, dropout=0.0
    )


# a small model of each family, the energies that it reports, and its blocks without a residue
FAMILIES: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
    "resnet": (lambda: resnet.ResNet(resnet.BasicBlock, [1, 1, 1, 1], 5), 4, 0),
    "resnext": (
        lambda: resnet.ResNet(resnet.Bottleneck, [1] * 4, 5, groups=4, width_per_group=4),
        4,
        0,
    ),
    "swin": (lambda: swin("", 0.0), 6, 0),
    "swin-drop": (lambda: swin("", 0.5), 6, 0),
    "swin-v2-drop": (lambda: swin("V2", 0.5), 6, 0),
    "vit": (lambda: vit(0.0), 4, 0),
    "vit-dropout": (lambda: vit(0.1), 4, 0),
    "mobilenet-v2": (mobile, 2, 3),
    "efficientnet": (lambda: efficient("MBConv", 0.0), 2, 1),
    "efficientnet-drop": (lambda: efficient("MBConv", 0.5), 2, 1),
    "efficientnet-v2-drop": (lambda: efficient("FusedMBConv", 0.5), 2, 1),
}


def run(model: nn.Module, x: Tensor, seed: int) -> list[Tensor]:
    """Output and gradients, with the draws of dropout and DropPath under a seed."""
    torch.manual_seed(seed)
    y = model(x)
    return [y, *gradients([y], [torch.cos(y.detach())], list(model.parameters()))]


@pytest.mark.parametrize("mode", ["none", "residue", "activation"])
@pytest.mark.parametrize("family", FAMILIES)
def test_outputs_and_gradients_of_every_family(family, mode) -> None:
    build, terms, _ = FAMILIES[family]
    plain = build().double()
    ours = regularize(copy.deepcopy(plain), mode)
    x = torch.randn(4, 3, 16, 16, dtype=torch.float64)
    for training in (True, False):
        expected = run(plain.train(training), x, seed=3)
        for a, b in zip(run(ours.train(training), x, seed=3), expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)
        with collect_energy() as energies:
            for a, b in zip(run(ours, x, seed=3), run(plain, x, seed=3), strict=True):
                torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)
        assert len(energies) == terms
    single, x = plain.float(), x.float()
    torch.testing.assert_close(ours.float()(x), single(x), rtol=1e-4, atol=1e-5)
    assert list(ours.state_dict()) == list(plain.state_dict())
    assert all(block.recompute == mode for block in blocks(ours))


@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_without_a_residue_are_left(family) -> None:
    build, _, left = FAMILIES[family]
    model = regularize(build())
    kinds = ("InvertedResidual", "MBConv", "FusedMBConv")
    assert sum(type(module).__name__ in kinds for module in model.modules()) == left


@pytest.mark.parametrize("family", ["swin-drop", "vit", "mobilenet-v2", "efficientnet"])
def test_converted_models_can_be_copied_and_stored(family) -> None:
    model = regularize(FAMILIES[family][0]()).eval()
    x = torch.randn(2, 3, 16, 16)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(x), model(x))


def test_a_block_with_a_forward_of_its_own_is_left() -> None:
    model = torchvision.models.resnet18()
    own = model.layer1[0]
    own.forward = lambda x: x
    regularize(model)
    assert type(own) is torchvision.models.resnet.BasicBlock
    assert type(model.layer1[1]).__name__ == "RegularizedBasicBlock"


def test_mistakes_are_explained() -> None:
    with pytest.raises(ValueError, match=r"must be an nn.Module; received 'resnet18'. Build"):
        regularize("resnet18")
    with pytest.raises(
        ValueError, match="must have a residual block that is known; received Linear"
    ):
        regularize(nn.Linear(3, 3))
    with pytest.raises(ValueError, match="recompute must be one of none, residue, activation"):
        regularize(torchvision.models.resnet18(), recompute="everything")
    with pytest.raises(ValueError, match="energy must be one of residue, displacement"):
        regularize(torchvision.models.resnet18(), energy="module")
