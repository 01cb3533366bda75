"""`balance="memory"` against brute force: over numbers, and over networks counted one by one."""

import random
from itertools import combinations, pairwise

import pytest
import torch
import torchvision
from small import CLASSES, SHAPE, network
from torch import nn

import trgl
from trgl.memory import balanced, count_network


def partitions(blocks: int, modules: int) -> list[list[int]]:
    """All ways to cut a row of blocks into K runs, as blocks per run."""
    cuts = combinations(range(1, blocks), modules - 1)
    return [[b - a for a, b in pairwise((0, *cut, blocks))] for cut in cuts]


def test_equals_brute_force_over_numbers() -> None:
    draw = random.Random(0)
    for _ in range(150):
        blocks = draw.randint(1, 9)
        modules = draw.randint(1, blocks)
        # no structure at all: a longer run may be lighter, and every module has costs of its own
        costs = {
            (k, a, b): draw.randint(0, 20)
            for k in range(modules)
            for a in range(blocks)
            for b in range(a + 1, blocks + 1)
        }

        def figures(counts: list[int], costs=costs) -> tuple[int, int]:
            ends = [sum(counts[:k]) for k in range(len(counts) + 1)]
            own = [costs[k, a, b] for k, (a, b) in enumerate(pairwise(ends))]
            return max(own), sum(cost**2 for cost in own)

        found = balanced(lambda k, a, b, costs=costs: costs[k, a, b], blocks, modules)
        assert sum(found) == blocks
        assert len(found) == modules
        assert min(found) >= 1
        assert figures(found) == min(map(figures, partitions(blocks, modules)))


def plain(blocks: int) -> nn.Sequential:
    """Layers of very uneven size, the first of which have no weights that train."""
    layers: list[nn.Module] = [nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(inplace=True)]
    for width in range(blocks - 1):
        layers += [nn.Conv2d(4 + width, 5 + width, 3, padding=1), nn.ReLU(inplace=True)]
        if width % 2:
            layers.append(nn.MaxPool2d(2, 1))
    model = nn.Sequential(*layers)
    model[0].requires_grad_(False)
    model[2].requires_grad_(False)
    return model


def resnet() -> nn.Module:
    return torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [2, 1, 1, 1])


def chain(**options):
    return lambda modules, balance: network(modules, 5, balance=balance, encoder="stem", **options)


BUILDERS = {
    "plain": lambda modules, balance: trgl.split(
        plain(5), modules, SHAPE, CLASSES, "pool-linear", balance
    ),
    "resnet": lambda modules, balance: trgl.split(
        resnet(), modules, (3, 32, 32), CLASSES, "conv", balance
    ),
    "heads": lambda modules, balance: trgl.split(
        resnet(), modules, (3, 32, 32), CLASSES, ["mlp", "conv", "linear"][:modules], balance
    ),
    "stem": lambda modules, balance: trgl.split(
        resnet(), modules, (3, 32, 32), CLASSES, "conv", balance, encoder="stem"
    ),
    "recomputed-heads": lambda modules, balance: trgl.split(
        resnet(), modules, (3, 32, 32), CLASSES, "conv", balance, recompute_heads=min(modules, 2)
    ),
    "frozen-head": chain(freeze_head=True, shared_head=True),
    "residue": chain(),
    "reconstruction": chain(local_loss="reconstruction"),
    "local-losses": lambda modules, balance: trgl.split(
        resnet(),
        modules,
        (3, 32, 32),
        CLASSES,
        "linear",
        balance,
        local_loss=["reconstruction", "similarity", None][:modules],
    ),
    "displacement": chain(energy="displacement"),
    "module": chain(energy="module"),
    "frozen-encoder": chain(freeze_encoder=True),
    "autocast": lambda modules, balance: trgl.split(
        resnet(),
        modules,
        (3, 32, 32),
        CLASSES,
        "conv",
        balance,
        encoder="stem",
        autocast=torch.bfloat16,
    ),
}


@pytest.mark.parametrize("modules", [1, 2, 3])
@pytest.mark.parametrize("name", BUILDERS)
def test_equals_brute_force_over_networks(name, modules) -> None:
    build = BUILDERS[name]

    def heaviest(balance) -> int:
        greedy = build(modules, balance)
        penalty = name != "plain"
        autocast = torch.bfloat16 if name == "autocast" else None
        counted = count_network(greedy, 32, penalty=penalty, autocast=autocast)
        return max(one.total for one in counted if one.number)

    blocks = 5
    every = {tuple(counts): heaviest(counts) for counts in partitions(blocks, modules)}
    assert heaviest("memory") == min(every.values())
    if modules == 2 and name in ("resnet", "stem"):
        assert min(every.values()) < heaviest("depth")


def test_draws_nothing_but_what_the_heads_that_stay_draw() -> None:
    torch.manual_seed(3)
    by_memory = trgl.split(resnet(), 2, (3, 32, 32), CLASSES, "conv", "memory")
    after = torch.get_rng_state()
    counts = [sum(n.startswith("layer") for n in module.body.names) for module in by_memory]
    torch.manual_seed(3)
    by_hand = trgl.split(resnet(), 2, (3, 32, 32), CLASSES, "conv", counts)
    assert torch.equal(after, torch.get_rng_state())
    assert all(
        torch.equal(a, b)
        for a, b in zip(by_memory.state_dict().values(), by_hand.state_dict().values(), strict=True)
    )


def test_takes_a_model_back_where_it_fails() -> None:
    model = resnet()
    before = [type(module) for module in model.modules()]
    with pytest.raises(ValueError, match="A list of heads needs one per module"):
        trgl.split(model, 2, (3, 32, 32), CLASSES, ["conv"], "memory")
    with pytest.raises(ValueError, match="keep their shape"):
        trgl.split(model, 2, (3, 32, 32), CLASSES, "conv", "memory", energy="module")
    assert [type(module) for module in model.modules()] == before


def test_no_module_is_left_without_an_energy() -> None:
    """The first two layers are as heavy as the others, but have no displacement."""
    widths = (3, 64, 4, 4, 4)
    layers = [nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.ReLU()) for a, b in pairwise(widths)]
    for energy, counts in (("residue", [2, 2]), ("displacement", [3, 1])):
        net = trgl.split(nn.Sequential(*layers), 2, (3, 8, 8), 2, "linear", "memory", energy=energy)
        assert [len(module.body.units) // 2 for module in net] == counts
        assert [module.energy_terms for module in net] == [int(energy == "displacement")] * 2
