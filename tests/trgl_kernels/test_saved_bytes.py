"""What autograd holds per block of a chain, in bytes: plain PyTorch against every memory mode.

Of two chains that differ by one block, the difference is that block's: each output is counted once,
whoever saves it, and parameters, buffers and the chain's input are not counted.
"""

import copy
from collections.abc import Callable
from functools import cache, partial

import pytest
import torch
from oracle import DEVICE, saved_bytes
from torch import Tensor, nn
from torchvision.models import efficientnet, mobilenetv2, resnet, swin_transformer
from torchvision.models.vision_transformer import EncoderBlock

from trgl_kernels import RegularizedPreActBlock, collect_energy, regularize
from trgl_kernels.blocks import Regularized

MODES = ("none", "residue", "activation")


class PlainPreAct(RegularizedPreActBlock):
    """The pre-activation block as one writes it without this package; `residue` is marked."""

    def __init__(self, *args) -> None:
        super().__init__(*args)
        self.residue = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        z = self.conv1(self.relu(self.bn1(x)))
        return x + self.residue(self.conv2(self.relu(self.bn2(z))))


def mbconv(norm: str = "MBConv", ratio: float = 4, drop: float = 0.2) -> nn.Module:
    kind, config = getattr(efficientnet, norm), getattr(efficientnet, f"{norm}Config")
    return kind(config(ratio, 3, 1, 8, 8, 1), drop, nn.BatchNorm2d)


def swin(kind: type[nn.Module], drop: float = 0.0) -> nn.Module:
    return kind(8, 2, [4, 4], [2, 2], stochastic_depth_prob=drop)


def vit() -> nn.Module:
    return EncoderBlock(2, 8, 16, 0.0, 0.0)


# a plain block, the shape of its input, and the modules that give its residues
BLOCKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], tuple[str, ...]]] = {
    "basic": (lambda: resnet.BasicBlock(8, 8), (4, 8, 6, 6), ("bn2",)),
    "bottleneck": (lambda: resnet.Bottleneck(32, 8), (4, 32, 6, 6), ("bn3",)),
    "pre-activation": (lambda: PlainPreAct(8, 8), (4, 8, 6, 6), ("residue",)),
    "inverted": (lambda: mobilenetv2.InvertedResidual(8, 8, 1, 4), (4, 8, 6, 6), ("conv",)),
    "inverted-thin": (lambda: mobilenetv2.InvertedResidual(8, 8, 1, 1), (4, 8, 6, 6), ("conv",)),
    "mbconv": (mbconv, (4, 8, 6, 6), ("stochastic_depth",)),
    "mbconv-thin": (partial(mbconv, ratio=1), (4, 8, 6, 6), ("stochastic_depth",)),
    "fused-mbconv": (partial(mbconv, "FusedMBConv"), (4, 8, 6, 6), ("stochastic_depth",)),
    "fused-mbconv-thin": (
        partial(mbconv, "FusedMBConv", 1),
        (4, 8, 6, 6),
        ("stochastic_depth",),
    ),
    "swin": (
        partial(swin, swin_transformer.SwinTransformerBlock),
        (4, 8, 8, 8),
        ("stochastic_depth",),
    ),
    "swin-drop": (
        partial(swin, swin_transformer.SwinTransformerBlock, 0.2),
        (4, 8, 8, 8),
        ("stochastic_depth",),
    ),
    "swin-v2": (
        partial(swin, swin_transformer.SwinTransformerBlockV2),
        (4, 8, 8, 8),
        ("stochastic_depth",),
    ),
    "vit": (vit, (4, 9, 8), ("dropout", "mlp")),
}


def chain(block: nn.Module, length: int, dtype: torch.dtype) -> nn.Module:
    """Copies of a block in the type of the stream; norms in float32, as mixed precision has it."""
    blocks = nn.Sequential(*(copy.deepcopy(block) for _ in range(length))).to(dtype)
    for module in blocks.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm | nn.LayerNorm):
            module.float()
    return blocks


def held(
    block: nn.Module,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    penalized: bool,
    weights: torch.dtype | None = None,
) -> int:
    """Bytes per block; `penalized` with the energies of all blocks in the loss."""
    totals = []
    for length in (2, 3):
        blocks = chain(block, length, weights or dtype)
        x = torch.randn(*shape, dtype=dtype, requires_grad=True)

        def function(*_: Tensor, blocks=blocks, x=x) -> list[Tensor]:
            if not penalized:
                y = blocks(x)
                return [y.sin().sum()]  # holds y
            with collect_energy() as energies:
                y = blocks(x)
            return [y.sin().sum() + energies.total()]

        totals.append(saved_bytes(function, x, *blocks.parameters(), *blocks.buffers()))
    return totals[1] - totals[0]


@cache
def plain(name: str, dtype: torch.dtype, penalized: bool) -> int:
    """Bytes per plain block; the penalty as one writes it with a hook on what gives the residue."""
    build, shape, places = BLOCKS[name]
    block = build()
    if not penalized:
        return held(block, shape, dtype, False)
    totals = []
    for length in (2, 3):
        blocks = chain(block, length, dtype)
        energies: list[Tensor] = []

        def take(_module, _args, output, energies=energies) -> Tensor:
            r = output.clone()  # the addition may overwrite the output
            energies.append(r.square().sum())
            return output

        for one in blocks:
            for place in places:
                one.get_submodule(place).register_forward_hook(take)
        x = torch.randn(*shape, dtype=dtype, requires_grad=True)

        def function(*_: Tensor, blocks=blocks, x=x, energies=energies) -> list[Tensor]:
            return [blocks(x).sin().sum() + sum(energies)]

        totals.append(saved_bytes(function, x, *blocks.parameters(), *blocks.buffers()))
    return totals[1] - totals[0]


@cache
def ours(name: str, dtype: torch.dtype, mode: str, penalized: bool) -> int:
    build, shape, _ = BLOCKS[name]
    block = RegularizedPreActBlock(8, 8) if name == "pre-activation" else regularize(build())
    assert isinstance(block, Regularized)
    return held(block.with_recompute(mode), shape, dtype, penalized)


# Per block: the bytes that plain PyTorch holds, as maps of the size of the block's output and what
# is smaller (vectors of norms, squeezed maps, masks, half maps); and how many of these maps more
# plain PyTorch holds with the penalty, and ours in the modes "none", "residue" and "activation"
# without the penalty and with it. A block is free where its last three numbers are not above 0.
#
# With the penalty, r is one map (two blocks in one for transformers: two). Where BN made it, it is
# made again. Elsewhere "residue" and "activation" recover it as y − x, not in bfloat16, whose
# difference has too few digits. The attention of Swin V2 keeps no x. Without expansion
# ("fused-mbconv-thin") a FusedMBConv ends in a SiLU, and no BN can make r again.
TABLE: dict[torch.dtype, dict[str, tuple]] = {
    torch.float32: {
        "basic": (4 * 4608 + 128, 1, (0, 0, -1), (0, 0, -1)),
        "bottleneck": (3 * 18432 + 384, 1, (0, 0, -0.5), (0, 0, -0.5)),
        "pre-activation": (4 * 4608 + 128, 1, (0, 0, -2), (1, 0, -2)),
        "inverted": (26 * 4608 + 576, 1, (0, 0, 0), (0, 0, 0)),
        "inverted-thin": (5 * 4608 + 128, 1, (0, 0, 0), (0, 0, 0)),
        "mbconv": (30 * 4608 + 1680, 1, (0, 0, 0), (0, 0, 0)),
        "mbconv-thin": (6 * 4608 + 464, 1, (0, 0, 0), (0, 0, 0)),
        "fused-mbconv": (14 * 4608 + 336, 1, (0, 0, 0), (0, 0, 0)),
        "fused-mbconv-thin": (3 * 4608 + 80, 1, (0, 0, 0), (1, 0, 0)),
        "swin": (20 * 8192 + 4096, 2, (0, 0, 0), (2, 0, 0)),
        "swin-drop": (20 * 8192 + 4128, 2, (0, 0, 0), (2, 0, 0)),
        "swin-v2": (41 * 8192 + 8, 2, (0, 0, 0), (2, 1, 1)),
        "vit": (12 * 1152 + 864, 2, (0, 0, 0), (2, 0, 0)),
    },
    torch.bfloat16: {
        "basic": (4 * 2304 + 128, 1, (0, 0, -1), (0, 0, -1)),
        "bottleneck": (3 * 9216 + 384, 1, (0, 0, -0.5), (0, 0, -0.5)),
        "pre-activation": (4 * 2304 + 128, 1, (0, 0, -2), (1, 1, -1)),
        "inverted": (26 * 2304 + 576, 1, (0, 0, 0), (0, 0, 0)),
        "inverted-thin": (5 * 2304 + 128, 1, (0, 0, 0), (0, 0, 0)),
        "mbconv": (30 * 2304 + 1128, 1, (0, 0, 0), (0, 0, 0)),
        "mbconv-thin": (6 * 2304 + 296, 1, (0, 0, 0), (0, 0, 0)),
        "fused-mbconv": (14 * 2304 + 328, 1, (0, 0, 0), (0, 0, 0)),
        "fused-mbconv-thin": (3 * 2304 + 72, 1, (0, 0, 0), (1, 1, 1)),
        "swin": (21 * 4096, 2, (0, 0, 0), (2, 2, 2)),
        "swin-drop": (21 * 4096 + 16, 2, (0, 0, 0), (2, 2, 2)),
        "swin-v2": (41 * 4096 + 2052, 2, (0, 0, 0), (2, 2, 2)),
        "vit": (13 * 576 + 288, 2, (0, 0, 0), (2, 2, 2)),
    },
}


@pytest.mark.skipif(DEVICE != "cpu", reason="the table is of what torch's CPU kernels keep")
@pytest.mark.parametrize("dtype", TABLE, ids=str)
@pytest.mark.parametrize("name", BLOCKS)
def test_bytes_of_every_block_and_mode(name, dtype) -> None:
    expected, penalty, *modes = TABLE[dtype][name]
    one = torch.empty(BLOCKS[name][1], dtype=dtype).nbytes
    assert plain(name, dtype, False) == expected
    assert plain(name, dtype, True) == expected + penalty * one
    for penalized, maps in zip((False, True), modes, strict=True):
        found = [ours(name, dtype, mode, penalized) for mode in MODES]
        assert found == [expected + more * one for more in maps], f"penalty: {penalized}"


@pytest.mark.parametrize("mode", MODES)
def test_autocast(mode) -> None:
    options = ((4, 8, 6, 6), torch.bfloat16)
    with torch.autocast(DEVICE, torch.bfloat16):
        without = held(resnet.BasicBlock(8, 8), *options, False, torch.float32)
        found = held(regularize(resnet.BasicBlock(8, 8), mode), *options, True, torch.float32)
    saved = 4 * 8 * 36 * 2 if mode == "activation" else 0
    assert found == without - saved


@pytest.mark.parametrize("mode", MODES)
def test_a_shortcut_that_projects_adds_its_own(mode) -> None:
    shortcut = nn.Sequential(nn.Conv2d(8, 16, 1, 2, bias=False), nn.BatchNorm2d(16))
    block = resnet.BasicBlock(8, 16, 2, shortcut)
    x = torch.randn(4, 8, 6, 6, requires_grad=True)

    def function(*_: Tensor) -> list[Tensor]:
        with collect_energy():
            return [block(x)]

    known = (x, *block.parameters(), *block.buffers())
    without = saved_bytes(function, *known)
    regularize(block, mode)
    inner = 4 * 16 * 9 * 4
    assert saved_bytes(function, *known) == without - (inner if mode == "activation" else 0)
