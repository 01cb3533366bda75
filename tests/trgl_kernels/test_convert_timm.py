"""regularize on timm's models; skipped where timm is not installed."""

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from oracle import gradients
from torch import Tensor, nn

from trgl_kernels import collect_energy, regularize
from trgl_kernels.blocks import Regularized

timm = pytest.importorskip("timm", reason="timm is not installed")

from timm.models import resnet, swin_transformer, vision_transformer  # noqa: E402


def vit(**options) -> nn.Module:
    return vision_transformer.VisionTransformer(
        img_size=16, patch_size=4, embed_dim=8, depth=2, num_heads=2, num_classes=5, **options
    )


def swin(**options) -> nn.Module:
    return swin_transformer.SwinTransformer(
        img_size=32,
        patch_size=4,
        embed_dim=8,
        depths=(2, 1),
        num_heads=(1, 2),
        window_size=4,
        num_classes=5,
        **options,
    )


# a small model of each family, and the energies that it reports
FAMILIES: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "basic": (lambda: resnet.ResNet(resnet.BasicBlock, (1, 1, 1, 1), num_classes=5), 4),
    "bottleneck-drop": (
        lambda: resnet.ResNet(
            resnet.Bottleneck, (1, 1, 2, 1), num_classes=5, drop_path_rate=0.5, stem_type="deep"
        ),
        5,
    ),
    "resnext": (
        lambda: resnet.ResNet(
            resnet.Bottleneck, (1, 1, 1, 1), num_classes=5, cardinality=4, base_width=8
        ),
        4,
    ),
    "vit": (vit, 4),
    "vit-scale-drop": (lambda: vit(init_values=0.5, drop_path_rate=0.5), 4),
    "swin": (swin, 6),
    "swin-drop": (lambda: swin(drop_path_rate=0.5), 6),
}


def run(model: nn.Module, x: Tensor, seed: int) -> list[Tensor]:
    """Output and gradients, with the draws of DropPath under a seed."""
    torch.manual_seed(seed)
    y = model(x)
    return [y, *gradients([y], [torch.cos(y.detach())], list(model.parameters()))]


@pytest.mark.parametrize("mode", ["none", "activation"])
@pytest.mark.parametrize("family", FAMILIES)
def test_outputs_and_gradients(family, mode) -> None:
    build, terms = FAMILIES[family]
    plain = build().double()
    ours = regularize(copy.deepcopy(plain), mode)
    x = torch.randn(4, 3, *((16, 16) if "vit" in family else (32, 32)), dtype=torch.float64)
    for training in (True, False):
        expected = run(plain.train(training), x, seed=3)
        for a, b in zip(run(ours.train(training), x, seed=3), expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)
        with collect_energy() as energies:
            for a, b in zip(run(ours, x, seed=3), run(plain, x, seed=3), strict=True):
                torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)
        assert len(energies) == terms
    assert list(ours.state_dict()) == list(plain.state_dict())
    again = pickle.loads(pickle.dumps(ours))
    assert torch.equal(again(x), ours(x))


def test_the_energy_is_of_what_is_added() -> None:
    block = vision_transformer.Block(8, 2, init_values=0.5).double()
    x = torch.randn(3, 9, 8, dtype=torch.float64)
    y = x + block.ls1(block.attn(block.norm1(x)))
    expected = [(y - x).square().sum((1, 2)), (block(x) - y).square().sum((1, 2))]
    with collect_energy() as energies:
        regularize(block)(x)
    torch.testing.assert_close(energies.energies, expected)


def test_dropped_paths_are_as_wide_as_layer_scale_makes_them() -> None:
    plain = vision_transformer.Block(64, 2, init_values=1.0, drop_path=0.1)
    ours = regularize(copy.deepcopy(plain))
    residues: list[Tensor] = []
    plain.drop_path1.register_forward_hook(lambda *call: residues.append(call[2]))
    x = torch.randn(32, 5, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.manual_seed(3)
        plain(x)
        torch.manual_seed(3)
        with collect_energy() as energies:
            ours(x)
    assert residues[0].dtype == torch.float32
    expected = residues[0].square().sum((1, 2))
    assert 0 < (expected == 0).sum() < 32
    torch.testing.assert_close(energies.energies[0], expected)


def test_a_mask_reaches_the_attention() -> None:
    plain = vision_transformer.Block(8, 2)
    ours = regularize(copy.deepcopy(plain))
    x, mask = torch.randn(3, 9, 8), torch.ones(9, 9, dtype=torch.bool).tril()
    expected = plain(x, attn_mask=mask)
    assert not torch.allclose(expected, plain(x))
    torch.testing.assert_close(ours(x, attn_mask=mask), expected)


@pytest.mark.parametrize(
    "options",
    [
        {"block_args": {"attn_layer": "se"}},
        {"aa_layer": timm.layers.BlurPool2d},
        {"drop_block_rate": 0.1},
    ],
    ids=["squeeze", "anti-aliasing", "drop-block"],
)
def test_blocks_with_more_in_between_are_left(options) -> None:
    model = resnet.ResNet(resnet.BasicBlock, (1, 2, 2, 2), num_classes=5, **options)
    x = torch.randn(2, 3, 32, 32)
    expected = model.eval()(x)
    if "block_args" in options:
        with pytest.raises(ValueError, match="must have a residual block that is known"):
            regularize(model)
        return
    left = sum(type(m) is resnet.BasicBlock for m in regularize(model).modules())
    assert 0 < left < 7
    assert sum(isinstance(m, Regularized) for m in model.modules()) == 7 - left
    torch.testing.assert_close(model(x), expected)


def test_timm_is_not_imported_for_other_models() -> None:
    code = (
        "import sys, torchvision, trgl_kernels; "
        "trgl_kernels.regularize(torchvision.models.resnet18()); "
        "assert 'timm' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
