"""What a checkpoint costs, and watching for numbers that are not finite, beside a step.

Between two saves a run asks after each batch whether one is due; on the CPU every module's loss and
gradients are looked at before the optimizer is.
"""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from trgl import Checkpoints, DivergenceError, Trainer, recipes
from trgl.build import build_network
from trgl.checkpoint import read
from trgl.prepare import Task, make_trainer
from trgl.restore import Shape

CASES = {
    "resnet110-k16": ("t3-resnet110-stl10-full-parallel-k16", (3, 32, 32), 32, 2),
    "mnist-20x1": ("mnist-20x1", (1, 28, 28), 128, 1),
    "digits-20x1": ("digits-20x1", (1, 8, 8), 50, 1),
}
Case = tuple[Trainer, Tensor, Tensor]


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> Any:
    name, shape, batch, threads = CASES[request.param]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch, *shape, generator=generator)  # [N, C, H, W]
    labels = torch.randint(10, (batch,), generator=generator)  # [N]
    recipe = recipes.find(name)
    network = build_network(recipe, Shape(shape, 10), 0)
    if recipe.frozen_encoder:
        network.calibrate([(images, labels)])
    trainer = make_trainer(Task(recipe, "transport", 0), network)
    network.train()
    step(trainer, images, labels)  # optimizers have their states now
    yield trainer, images, labels
    torch.set_num_threads(before)


def step(trainer: Trainer, images: Tensor, labels: Tensor) -> None:
    """One batch in parallel training."""
    with torch.no_grad():
        x = images if trainer.network.encoder is None else trainer.network.encoder(images)
    for local in trainer.steps:
        x = local(x, labels)


def watch(trainer: Trainer, images: Tensor, loss: Tensor) -> None:
    for local in trainer.steps:
        local.watch.loss(loss, loss, None, images)
        local.watch.gradients(local.parameters, None)


def test_step(benchmark: Any, case: Case) -> None:
    benchmark.pedantic(step, case, rounds=12, warmup_rounds=2)
    assert all(math.isfinite(local.meter.sums.sum()) for local in case[0].steps)


def test_watching(benchmark: Any, case: Case) -> None:
    trainer, images, _ = case
    parameters = [p for local in trainer.steps for p in local.parameters]
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    benchmark(watch, trainer, images, torch.ones(()))
    assert parameters[-1].grad is not None
    parameters[-1].grad.view(-1)[-1] = math.nan
    with pytest.raises(DivergenceError, match="its gradient is infinite or NaN"):
        watch(trainer, images, torch.ones(()))
    trainer.network.zero_grad()
    trainer.steps[-1].watch.reset()


def test_asking_whether_a_save_is_due(benchmark: Any, tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, every="1h")
    benchmark(checkpoints.due, 1)
    assert not checkpoints.due(1)


def test_saving(benchmark: Any, case: Case, tmp_path: Path) -> None:
    trainer = case[0]
    checkpoints = Checkpoints(tmp_path, every="1h")
    path = benchmark.pedantic(
        lambda: checkpoints.save(trainer.state_dict(), 1), rounds=10, warmup_rounds=1
    )
    benchmark.extra_info["megabytes"] = path.stat().st_size / 1e6
    saved, here = read(path)["network"], trainer.network.state_dict()
    assert saved.keys() == here.keys()
    assert all(torch.equal(saved[name], value) for name, value in here.items())
