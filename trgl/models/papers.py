"""The papers' splits: blocks per module, and the pooling windows of the modules' heads.

Source: TRGL (Karkar et al., NeurIPS 2023), appendix C, and the authors' experiments. Those of
VGG-19 are ours: the text does not say where it was cut; here, at its poolings.
"""

from itertools import accumulate

BLOCKS: dict[str, dict[int, tuple[int, ...]]] = {
    "resnet110": {
        2: (27, 27),
        4: (14, 14, 13, 13),
        8: (7, 7, 7, 7, 8, 6, 6, 6),
        16: (4,) * 6 + (3,) * 10,
    },
    "resnet50": {4: (3, 4, 6, 3)},
    "resnet101": {2: (17, 16), 4: (7, 9, 9, 8)},
    "resnet152": {2: (25, 25), 4: (11, 13, 13, 13)},
    "resnext50_32x4d": {16: (1,) * 16},
    "swin_t": {4: (2, 2, 6, 2)},
    "vgg19": {4: (4, 4, 4, 4)},
    "vgg19_bn": {4: (4, 4, 4, 4)},
}

# those with as much memory in every module
BALANCED: dict[str, dict[int, tuple[int, ...]]] = {
    "resnet110": {2: (14, 40), 4: (6, 8, 12, 28)},
}

_WINDOWS: dict[str, dict[int, tuple[int, ...]]] = {
    "resnet50": {4: (16, 8, 8, 4)},  # TinyImageNet, as all in four modules
    "resnet101": {2: (8, 4), 4: (8, 8, 8, 4)},  # CIFAR-100 in two modules
    "resnet152": {2: (8, 4), 4: (8, 8, 8, 4)},
}


def blocks_of(network: str, modules: int, balanced: bool = False) -> tuple[int, ...]:
    """The published blocks per module.

    Args:
        network: its name.
        modules: K.
        balanced: of the experiment with as much memory in every module.

    Raises:
        ValueError: that split was not published.
    """
    table = BALANCED if balanced else BLOCKS
    known = table.get(network, {})
    if modules not in known:
        there = ", ".join(f"{name} in {k}" for name, splits in table.items() for k in splits)
        raise ValueError(
            f"the papers split {there} modules{' with balanced memory' * balanced}, but not "
            f"{network} in {modules}. Take the balance depth or memory, or list the blocks."
        )
    return known[modules]


def windows_of(network: str, modules: int, balanced: bool = False) -> tuple[int, ...]:
    """The published pooling windows of the heads, module 1 first; nothing where none are.

    Those of ResNet-110 are for images of 96×96 pixels: 16 in its first two stages, 8 in the third.

    Args:
        network: its name.
        modules: K.
        balanced: of the experiment with as much memory in every module.

    Raises:
        ValueError: a split that was not published.
    """
    if network == "resnet110":
        ends = accumulate(blocks_of(network, modules, balanced))
        return tuple(16 if end <= 36 else 8 for end in ends)
    return _WINDOWS.get(network, {}).get(modules, ())
