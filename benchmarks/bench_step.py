"""One batch of training: ResNet-110 in modules with the regularizer, against eager PyTorch.

Every contestant trains on the same batch again and again: forward, losses, backward, optimizer. In
channels_last, which a trainer is asked for by `channels_last=True`, plain PyTorch runs in its own
default layout too.
"""

import copy

import pytest
import torch
import torch.nn.functional as F
from race import race
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

import trgl
import trgl_kernels
from trgl.models.resnet110 import RESNET110_BLOCKS, resnet110
from trgl.regimes import train_epoch

CLASSES = 10
TAU = 0.5


class Plain(BasicBlock):
    """torchvision's block with the layers of one of ours."""

    def __init__(self, block: nn.Module) -> None:
        nn.Module.__init__(self)
        for name, layer in block.named_children():
            setattr(self, name, layer)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = block.downsample


def plain(model: nn.Sequential) -> nn.Sequential:
    """The same network in torchvision's blocks."""
    encoder, *stages = copy.deepcopy(model)
    return nn.Sequential(encoder, *(nn.Sequential(*map(Plain, stage)) for stage in stages))


def sgd(parameters) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.003, momentum=0.9, weight_decay=1e-4)


def eager(model: nn.Module, images: Tensor, labels: Tensor):
    """End to end in plain PyTorch, as anybody would write it."""
    model.train()
    optimizer = sgd(model.parameters())

    def run() -> Tensor:
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return run


def trained(network: trgl.GreedyNetwork, images: Tensor, labels: Tensor, **options):
    """The trainer's own step."""
    return one_batch(trgl.Trainer(network, optimizer=sgd, epochs=1, **options), images, labels)


def one_batch(trainer: trgl.Trainer, images: Tensor, labels: Tensor):
    """What a trainer does with one batch."""
    for step in trainer.steps:
        step.module.train()
    numbers = trainer.phases[0].active

    def run() -> Tensor:
        for step in trainer.steps:
            step.meter.reset()
        train_epoch(trainer.steps, numbers, lambda x: x, [(images, labels)])
        return trainer.steps[-1].meter.sums[0] / len(labels)

    return run


def in_modules(model: nn.Module, modules: int, mode: str, side: int) -> trgl.GreedyNetwork:
    model = copy.deepcopy(model)
    for block in model.modules():
        if isinstance(block, trgl_kernels.RegularizedBasicBlock):
            block.with_recompute(mode)
    balance = RESNET110_BLOCKS[modules] if modules > 1 else "depth"
    return trgl.split(model, modules, (3, side, side), CLASSES, balance=balance, seed=0)


@pytest.mark.parametrize("layout", ["NCHW", "channels_last"])
@pytest.mark.parametrize("modules", [4, 16])
def test_resnet110(benchmark, modules, layout) -> None:
    torch.manual_seed(0)
    batch, side = 32, 32
    last = layout == "channels_last"
    memory_format = torch.channels_last if last else torch.contiguous_format
    images, labels = torch.randn(batch, 3, side, side), torch.randint(CLASSES, (batch,))
    images = images.contiguous(memory_format=memory_format)
    model = resnet110().to(memory_format=memory_format)
    head = in_modules(model, 1, "none", side)[-1].head
    transport = trgl.Transport(tau=TAU)

    def end_to_end(mode: str):
        network = in_modules(model, 1, mode, side)
        return trained(network, images, labels, regime="end-to-end", channels_last=last)

    def greedy(mode: str, transport: trgl.Transport | None):
        network = in_modules(model, modules, mode, side)
        return trained(network, images, labels, transport=transport, channels_last=last)

    network = nn.Sequential(plain(model), copy.deepcopy(head))
    whole = {"eager": eager(copy.deepcopy(network), images, labels)}
    if last:
        network.to(memory_format=torch.contiguous_format)
        whole["eager_contiguous"] = eager(network, images.contiguous(), labels)
    expected = end_to_end("none")()
    for run in whole.values():
        torch.testing.assert_close(run(), expected, rtol=1e-3, atol=1e-3, check_dtype=False)
    race(
        benchmark,
        greedy("activation", transport),
        {
            **whole,
            "end_to_end": end_to_end("none"),
            "penalty_off": greedy("activation", None),
            "recompute_none": greedy("none", transport),
        },
        op=f"ResNet-110, K = {modules}",
        part="training step",
        x=images,
    )
