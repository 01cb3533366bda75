"""The figures of README.md and docs/memory.md: ResNet-110, 3×96×96, batch 64, float32."""

from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.resnet import BasicBlock

import trgl
from trgl.forecast import predict_steps
from trgl.memory import count_network, count_whole
from trgl.memory_table import network_of
from trgl.models.papers import blocks_of
from trgl.zoo import subject
from trgl_kernels import regularize

MiB = 2**20
SHAPE, BATCH = (3, 96, 96), 64


class Row(NamedTuple):
    """What the heaviest module keeps for backward, in % of plain end-to-end training.

    Args:
        blocks: per module, as the papers cut it.
        plain: plain PyTorch without and with the penalty.
        ours: with and without the penalty.
        heads: with heads that run again in backward; None where the README leaves it out.
        memory: of balance="memory" with as many modules; None likewise.
        balanced: the blocks per module that it chooses.
    """

    blocks: tuple[int, ...]
    plain: tuple[int, int]
    ours: float
    heads: float | None = None
    memory: float | None = None
    balanced: tuple[int, ...] = ()


ROWS = {
    "2": Row(blocks_of("resnet110", 2), (72, 90), 54.75, 54.36, 39.59, (15, 39)),
    "2, by hand 14/40": Row(blocks_of("resnet110", 2, balanced=True), (56, 69), 41.93),
    "4": Row(blocks_of("resnet110", 4), (46, 57), 35.25, 34.47, 20.48, (7, 8, 13, 26)),
    "4, by hand 6/8/12/28": Row(blocks_of("resnet110", 4, balanced=True), (30, 38), 22.82),
    "8": Row(blocks_of("resnet110", 8), (24, 30), 18.87, 18.09, 10.92, (3, 4, 4, 4, 5, 8, 9, 17)),
    "16": Row(
        blocks_of("resnet110", 16),
        (15, 18),
        11.85,
        11.07,
        6.24,
        (1, 2, 2, 2, 2, 2, 2, 2, 2, 3, 4, 4, 4, 5, 8, 9),
    ),
}


def own_classifier(shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(shape[0], classes))


def resnet110(balance, recompute: str = "activation", head="conv", **options) -> trgl.GreedyNetwork:
    model = regularize(trgl.models.resnet110(), recompute)
    modules = options.pop("modules", len(balance))
    return trgl.split(model, modules, SHAPE, 10, head, balance, **options)


@pytest.fixture(scope="module")
def end_to_end() -> trgl.GreedyNetwork:
    """Plain ResNet-110 with average pooling and a linear layer."""
    return resnet110("depth", "none", own_classifier, modules=1)


@pytest.fixture(scope="module")
def everything(end_to_end) -> int:
    """What plain end-to-end training keeps for backward, in bytes."""
    total = count_whole(end_to_end, BATCH).total
    assert round(total / MiB) == 4615
    return total


def heaviest(greedy: trgl.GreedyNetwork, penalty: bool, **options) -> int:
    return max(saved.total for saved in count_network(greedy, BATCH, penalty=penalty, **options))


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_the_penalty_costs_nothing(row, everything) -> None:
    greedy = resnet110(row.blocks)
    found = heaviest(greedy, True)
    assert found == heaviest(greedy, False)
    assert round(100 * found / everything, 2) == row.ours
    kept = resnet110(row.blocks, "none")
    assert heaviest(kept, True) == heaviest(kept, False) > found


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.heads])
def test_recomputed_heads_keep_nothing(name, everything) -> None:
    counted = count_network(resnet110(ROWS[name].blocks, recompute_heads=True), BATCH)
    assert round(100 * max(one.total for one in counted) / everything, 2) == ROWS[name].heads
    assert all(one.head < 0.1 * MiB for one in counted)
    if name == "16":  # the text of the README
        assert [one.number for one in counted if round(one.total / MiB) == 511] == [1]


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.memory])
def test_balanced_by_memory(name, everything) -> None:
    row = ROWS[name]
    greedy = resnet110("memory", modules=int(name))
    counts = [sum(unit.startswith("layer") for unit in module.body.names) for module in greedy]
    assert tuple(counts) == row.balanced
    found = heaviest(greedy, True)
    assert found == heaviest(greedy, False)
    assert round(100 * found / everything, 2) == row.memory


def test_no_cut_by_hand_is_as_light() -> None:
    for modules in (2, 4):
        by_hand = next(row for name, row in ROWS.items() if name.startswith(f"{modules}, by hand"))
        row = ROWS[str(modules)]
        assert row.memory < by_hand.ours < row.ours


class PlainBlock(BasicBlock):
    """torchvision's block with the penalty as one writes it in plain PyTorch."""

    energies: list[torch.Tensor] = []  # noqa: RUF012

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        r = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        self.energies.append(r.square().mean())
        return self.relu((x if self.downsample is None else self.downsample(x)) + r)


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_plain_pytorch_keeps_a_map_more(row, everything) -> None:
    def penalized(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        energies = PlainBlock.energies.copy()
        PlainBlock.energies.clear()
        return F.cross_entropy(logits, labels) + sum(energies)

    greedy = resnet110(row.blocks)
    for block, criterion, expected in zip(
        (BasicBlock, PlainBlock), (F.cross_entropy, penalized), row.plain, strict=True
    ):
        for layer in greedy.modules():
            if isinstance(layer, BasicBlock):
                layer.__class__ = block
        found = heaviest(greedy, False, criterion=criterion)
        assert round(100 * found / everything) == expected


def test_the_readme_says_so() -> None:
    text = (Path(__file__).parents[3] / "README.md").read_text()
    sizes = [round(4615 * share / 100) for share in (ROWS["16"].ours, ROWS["16"].heads)]
    assert f"K = 16, first module: {sizes[0]} MiB to {sizes[1]})" in " ".join(text.split())
    rows = [[cell.strip() for cell in line.split("|")[1:]] for line in text.splitlines()]
    table = {cells[0]: cells[1:6] for cells in rows if cells and cells[0] in ROWS}
    assert table == {
        name: [
            "" if figure is None else str(round(figure))
            for figure in (*row.plain, row.ours, row.heads, row.memory)
        ]
        for name, row in ROWS.items()
    }


@pytest.fixture(scope="module")
def highest(end_to_end) -> int:
    """The peak of a step of plain end-to-end training, in bytes."""
    (peak,) = predict_steps(end_to_end, BATCH, regime="end-to-end")
    return peak.activations


@pytest.mark.parametrize(
    ("name", "share"),
    [
        pytest.param("2", 40, marks=pytest.mark.slow),
        ("4", 22),
        pytest.param("8", 13, marks=pytest.mark.slow),
        pytest.param("16", 8, marks=pytest.mark.slow),
    ],
)
def test_peaks_of_balanced_modules(name, share, highest) -> None:
    greedy = resnet110(ROWS[name].balanced)
    peaks = predict_steps(greedy, BATCH, transport=trgl.Transport())
    assert round(100 * max(one.activations for one in peaks) / highest) == share


def test_checkpointed_blocks(everything, highest) -> None:
    chosen = subject("resnet110", SHAPE, 10)
    greedy = network_of(chosen, chosen.build(), "checkpointed", 1)
    assert round(100 * count_whole(greedy, BATCH).total / everything) == 26
    (peak,) = predict_steps(greedy, BATCH, regime="end-to-end")
    assert round(100 * peak.activations / highest) == 27
