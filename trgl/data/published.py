"""Where the published data sets are, and what their files look like when they have arrived."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from trgl.data.folders import TINY

FETCHABLE = ("mnist", "fashion-mnist", "cifar10", "cifar100", "stl10", "tiny-imagenet")
_TINY_MD5 = "90528d7ca1a48142e341f4ef8d21d0de"


@dataclass(frozen=True)
class File:
    """A file to fetch: its name, the addresses that have it, and its MD5."""

    name: str
    addresses: tuple[str, ...]
    md5: str


@dataclass(frozen=True)
class Published:
    """A data set as it is published.

    Attributes:
        folder: where its files end up, in the directory that the user names.
        files: to fetch.
        packed: each is an archive, with ``folder`` in it; else they are what is read.
        inside: MD5 by name of files in an archive, where they are known.
    """

    folder: str
    files: tuple[File, ...]
    packed: bool
    inside: dict[str, str] = field(default_factory=dict)


def published(name: str) -> Published:
    """The addresses and checksums of a data set, torchvision's where it has them.

    Args:
        name: one of ``FETCHABLE``.
    """
    from torchvision import datasets  # slow to import: only when it is asked for

    if name in ("mnist", "fashion-mnist"):
        idx: Any = datasets.MNIST if name == "mnist" else datasets.FashionMNIST
        files = tuple(
            File(file, tuple(mirror + file for mirror in idx.mirrors), md5)
            for file, md5 in idx.resources
        )
        return Published(f"{idx.__name__}/raw", files, packed=False)
    if name == "tiny-imagenet":
        file = f"{TINY}.zip"
        address = f"http://cs231n.stanford.edu/{file}"
        return Published(TINY, (File(file, (address,), _TINY_MD5),), packed=True)
    known: Any = {
        "cifar10": datasets.CIFAR10,
        "cifar100": datasets.CIFAR100,
        "stl10": datasets.STL10,
    }[name]
    archive = File(known.filename, (known.url,), known.tgz_md5)
    inside = dict([*known.train_list, *known.test_list])
    return Published(known.base_folder, (archive,), packed=True, inside=inside)
