"""A step of the 20×1 network on small images, one thread: the trainer against a plain script.

Twenty modules of one pre-activation block each, one shared head and a frozen encoder, 28×28 pixels:
Table 13 of TRGL (Karkar et al., NeurIPS 2023). The maps are small, so that the work around the
operators counts. Both sides draw their batches, crops included, from loaders of the same seed.
"""

import copy
import dataclasses
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from plain_blocks import PlainPreAct
from race import race
from torch import Tensor, nn

import trgl
from trgl.data import Batches, ImageData
from trgl.prepare import Prepared, Task, prepare
from trgl.recipes import named
from trgl.regimes import train_epoch
from trgl_kernels import RegularizedPreActBlock as PreActBlock

# random pixels, trained on for hundreds of epochs, diverge at the recipe's own rate
RECIPE = dataclasses.replace(named.find("mnist-20x1"), learning_rate=1e-4)


def plain(network: trgl.GreedyNetwork, loader: Iterable[tuple[Tensor, Tensor]]):
    """An epoch of training module by module in plain PyTorch, every line by hand."""
    network = copy.deepcopy(network).train()
    head = network[0].head
    blocks = [PlainPreAct(block) for block in network.modules() if isinstance(block, PreActBlock)]
    optimizers = [optimizer(block.parameters()) for block in blocks]
    head_optimizer = optimizer(head.parameters())

    def epoch() -> Tensor:
        for images, labels in loader:
            with torch.no_grad():
                x = network.encoder(images)
            for block, block_optimizer in zip(blocks, optimizers, strict=True):
                r = block.residue(x)
                y = x + r
                criterion = F.cross_entropy(head(y), labels)
                (criterion + r.square().mean() / (2 * RECIPE.tau)).backward()
                block_optimizer.step()
                head_optimizer.step()
                block_optimizer.zero_grad()
                head_optimizer.zero_grad()
                x = y.detach()
        return criterion.detach()

    return epoch


def optimizer(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(
        parameters,
        lr=RECIPE.learning_rate,
        momentum=RECIPE.momentum,
        weight_decay=RECIPE.weight_decay,
    )


def trained(prepared: Prepared) -> Callable[[], Tensor]:
    """An epoch of the trainer's steps."""
    trainer = prepared.trainer
    encoder = torch.no_grad()(prepared.network.encoder)
    prepared.network.train()

    def epoch() -> Tensor:
        for step in trainer.steps:
            step.meter.reset()
        train_epoch(trainer.steps, trainer.phases[0].active, encoder, prepared.loaders.train)
        return trainer.steps[-1].meter.sums[0] / RECIPE.batch_size

    return epoch


def test_mnist_20x1(benchmark) -> None:
    """`trgl train mnist-20x1`: one batch of 128 of 150 images an epoch."""
    torch.set_num_threads(RECIPE.threads)
    try:
        pixels = torch.randint(256, (RECIPE.train_size, 1, 28, 28), dtype=torch.uint8)
        labels = torch.arange(RECIPE.train_size) % 10
        images = ImageData("random", pixels, labels, pixels, labels, 10)

        def prepared(method: str) -> Prepared:
            return prepare(Task(RECIPE, method, seed=0), images)

        ours, theirs = prepared("transport"), prepared("transport")
        run, by_hand = trained(ours), plain(theirs.network, theirs.loaders.train)
        for _ in range(3):
            torch.testing.assert_close(run().float(), by_hand(), rtol=1e-3, atol=1e-3)
        batch = next(iter(Batches(pixels, labels, RECIPE.batch_size)))[0]
        race(
            benchmark,
            run,
            {
                "eager": by_hand,
                "penalty_off": trained(prepared("vanilla")),
            },
            op="20×1, K = 20",
            part="training epoch",
            x=batch,
        )
    finally:
        torch.set_num_threads(2)
