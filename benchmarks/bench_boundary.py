"""What the module boundary costs: a training step with it, without it, and finding in every step.

Verified first: all three learn the same, bit by bit.
"""

import copy
from contextlib import nullcontext

import torch
from bench_step import CLASSES, TAU, in_modules, one_batch, sgd
from race import race
from torch import Tensor

import trgl
import trgl_kernels
from trgl.models.resnet110 import resnet110

STEPS = 3


class Detach(nullcontext):
    """In place of a boundary: plain reference counting."""

    def cross(self, y: Tensor) -> Tensor:
        return y.detach()


def contestants(modules: int, images: Tensor, labels: Tensor):
    """The same network in three trainers: the boundary as it comes, none, and finding always."""
    network = in_modules(resnet110(), modules, "activation", images.shape[-1])
    runs, networks = {}, {}
    for name in ("default", "off", "always"):
        networks[name] = copy.deepcopy(network)
        trainer = trgl.Trainer(
            networks[name], optimizer=sgd, epochs=1, transport=trgl.Transport(tau=TAU)
        )
        runs[name] = one_batch(trainer, images, labels)
        for step in trainer.steps:
            if name == "off":
                step.boundary = Detach()
            elif name == "always":
                step.boundary.find = "always"
    return runs, networks


def test_resnet110(benchmark) -> None:
    torch.manual_seed(0)
    batch, side, modules = 32, 32, 16
    images, labels = torch.randn(batch, 3, side, side), torch.randint(CLASSES, (batch,))
    assert trgl_kernels.info()["boundary"]["release"]
    runs, networks = contestants(modules, images, labels)
    for run in runs.values():
        for _ in range(STEPS):  # past the steps that find by default
            run()
    states = [network.state_dict() for network in networks.values()]
    for name in states[0]:
        assert all(torch.equal(states[0][name], state[name]) for state in states), name
    race(
        benchmark,
        runs["default"],
        {"without_boundary": runs["off"], "finding_always": runs["always"]},
        op="module boundary, K = 16",
        part="training step",
        x=images,
    )
