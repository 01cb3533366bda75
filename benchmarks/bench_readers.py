"""Batches of image files: reader processes against this process and torchvision's own way.

Verified first: readers give, bit by bit, what this process reads.
"""

import numpy as np
import torch
from PIL import Image
from race import race
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from trgl import data

FILES, SIDE, BATCH, WORKERS = 512, 64, 128, 2


def write(directory) -> None:
    """Images that compress about as photographs of this size do."""
    draws = np.random.default_rng(0)
    for part, count in (("train", FILES), ("val", 4)):
        for number in range(count):
            path = directory / part / f"class{number % 4}" / f"{number}.jpeg"
            path.parent.mkdir(parents=True, exist_ok=True)
            few = Image.fromarray(draws.integers(0, 256, (12, 12, 3), dtype=np.uint8))
            few.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(path)


def epoch(loader):
    """Reads all batches once."""
    return lambda: [None for _ in loader]


def test_jpeg_files(benchmark, tmp_path) -> None:
    write(tmp_path)
    images = data.load("image-folder", tmp_path)
    mean = std = (0.5, 0.5, 0.5)

    def make(workers: int) -> data.Batches:
        return data.Batches(
            images.x_train,
            images.y_train,
            BATCH,
            shuffle=True,
            crop_padding=4,
            flip=True,
            mean=mean,
            std=std,
            workers=workers,
        )

    for (x, _), (u, _) in zip(make(WORKERS), make(0), strict=True):
        assert torch.equal(x, u)
    steps = [
        transforms.RandomCrop(SIDE, padding=4),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize(mean, std),
    ]
    theirs = DataLoader(
        datasets.ImageFolder(tmp_path / "train", transforms.Compose(steps)),
        BATCH,
        shuffle=True,
        num_workers=WORKERS,
        persistent_workers=True,
    )
    race(
        benchmark,
        epoch(make(WORKERS)),
        {
            "in_this_process": epoch(make(0)),
            "torchvision": epoch(theirs),
        },
        op=f"batches of JPEG files, {WORKERS} readers",
        part="epoch",
        x=torch.empty(FILES, 3, SIDE, SIDE),
    )
