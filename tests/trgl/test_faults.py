"""What goes wrong while a network trains: it is named, and nothing good is lost."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from served import Server
from small import batches, differing, network, sgd, state
from torch import Tensor, nn

import trgl
from trgl import rundir
from trgl.checkpoint import Checkpoints
from trgl.checkpoint.folder import DIVERGED

GPU_IS_FULL = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB of "
    "which 1.50 GiB is free. Process 1 has 77.61 GiB memory in use."
)
TINY = [
    "--modules",
    "3",
    "--filters",
    "4",
    "--train-size",
    "30",
    "--batch-size",
    "8",
    "--evaluate-every",
    "2",
    "--epochs",
    "2",
    "--quiet",
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("log") / "log.txt")
    yield server
    server.close()


def trainer(optimizer: Callable[[list[nn.Parameter]], Any] = sgd) -> trgl.Trainer:
    net = network(block="post-activation")
    return trgl.Trainer(net, optimizer=optimizer, epochs=2, transport=trgl.Transport(0.5))


def on_call(number: int, act: Callable[[Any], Any]) -> Callable[..., Any]:
    """A hook that acts in one of its calls, counted from 1."""
    calls: list[int] = []

    def hook(*arguments: Any) -> Any:
        calls.append(1)
        return act(arguments[-1]) if len(calls) == number else None

    return hook


def full(_: Any) -> None:
    raise torch.OutOfMemoryError(GPU_IS_FULL)


def check_goes_on(folder: Path, step: int) -> None:
    """What the folder holds is the state after so many steps, and leads to the usual end."""
    newest = Checkpoints(folder).paths()[0]
    assert newest.name == f"step-{step:010d}.pt"
    whole, parts = trainer(), trainer()
    whole.fit(batches())
    parts.fit(batches(), resume=newest)
    assert differing(state(parts.network), state(whole.network)) == []


def test_images_that_are_not_finite_are_named_and_cost_nothing(tmp_path: Path) -> None:
    broken = batches()
    broken[2] = (broken[2][0].clone(), broken[2][1])
    broken[2][0][5, 1, 2, 3] = float("nan")
    wanted = (
        r"Module 1 diverged in epoch 1, step 3 of it: the images .* NaN\. Repair .*diverged\.pt"
    )
    with pytest.raises(trgl.DivergenceError, match=wanted):
        trainer().fit(broken, checkpoints=Checkpoints(tmp_path, every="1"))
    check_goes_on(tmp_path, 2)


def test_a_gradient_that_is_not_finite_is_named_and_cost_nothing(tmp_path: Path) -> None:
    one = trainer()
    before: list[dict[str, Tensor]] = []
    weight = next(one.network[1].head.parameters())
    weight.register_hook(on_call(5, lambda gradient: gradient * float("inf")))
    wanted = "Module 2 diverged in epoch 2, step 2 of it: its gradient is infinite or NaN"
    with pytest.raises(trgl.DivergenceError, match=wanted) as caught:
        one.fit(
            batches(),
            checkpoints=Checkpoints(tmp_path, every="1"),
            on_step=lambda epoch, batch: before.append(parameters(one.network[1])),
        )
    assert "Lower the learning rate" in str(caught.value)
    assert differing(parameters(one.network[1]), before[-1]) == []
    aside = trgl.checkpoint.read(tmp_path / DIVERGED)
    assert aside["network"].keys() == state(one.network).keys()
    check_goes_on(tmp_path, 4)


def parameters(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.named_parameters()}


@pytest.mark.parametrize("where", ["body", "head"])
def test_a_module_that_finds_no_memory_is_named_and_keeps_its_weights(
    tmp_path: Path, where: str
) -> None:
    one = trainer()
    before: list[dict[str, Tensor]] = []
    part = getattr(one.network[1], where)
    part.register_forward_hook(on_call(5, full))  # when it has done its work
    with pytest.raises(trgl.DeviceMemoryError) as caught:
        one.fit(
            batches(),
            checkpoints=Checkpoints(tmp_path, every="1"),
            on_step=lambda epoch, batch: before.append(parameters(one.network[1])),
        )
    assert (caught.value.number, caught.value.updating) == (2, False)
    text = str(caught.value)
    assert text.startswith("Module 2 has no room for its step on cpu, with batches of 8: another")
    assert (
        "another 2.00 GiB were needed where 1.50 GiB is free. Its weights are as they were" in text
    )
    for remedy in ("batch size", "more modules", "balance='memory'", "recompute", "trgl memory"):
        assert remedy in text
    assert len(before) == 4
    assert differing(parameters(one.network[1]), before[-1]) == []
    check_goes_on(tmp_path, 4)


@pytest.mark.parametrize("place", ["encoder", "module 1"])
def test_a_frozen_module_that_finds_no_memory_is_named(place: str) -> None:
    net = network(modules=2, encoder="stem", freeze_encoder=True)
    one = trgl.Trainer(net, "sequential", optimizer=sgd, epochs=1)
    part = net.encoder if place == "encoder" else net[0].body
    assert isinstance(part, nn.Module)
    part.register_forward_hook(on_call(2 if place == "encoder" else 5, full))
    with pytest.raises(trgl.DeviceMemoryError, match=r"which is frozen, .*Give chunk") as caught:
        one.fit(batches())
    assert caught.value.number == (0 if place == "encoder" else 1)


def test_an_optimizer_that_finds_no_memory_leaves_the_checkpoint(tmp_path: Path) -> None:
    hungry = on_call(8, full)  # module 2 in the third batch

    def optimizer(weights: list[nn.Parameter]) -> torch.optim.Optimizer:
        made = sgd(weights)
        made.register_step_pre_hook(hungry)
        return made

    one = trainer(optimizer)
    with pytest.raises(trgl.DeviceMemoryError, match=r"^Module 2 .*updated in part: go on from"):
        one.fit(batches(), checkpoints=Checkpoints(tmp_path, every="1"))
    with pytest.raises(ValueError, match="in the middle of one"):
        one.save(tmp_path / "half.pt")
    assert not (tmp_path / "half.pt").exists()
    check_goes_on(tmp_path, 2)


def test_the_checkpoint_of_another_run_is_refused_by_name(server: Server, tmp_path: Path) -> None:
    mine, other = tmp_path / "mine", tmp_path / "other"
    for path, seed in ((mine, 1), (other, 2)):
        words = ["train", "digits-20x1", *TINY, "--seed", seed, "--checkpoint-every", 2]
        assert server.run(*words, "--out", path) == 0, server.log.read_text()
    newest = Checkpoints(other / rundir.CHECKPOINTS).paths()[0]
    foreign = mine / rundir.CHECKPOINTS / "step-0000009999.pt"
    shutil.copy(newest, foreign)
    (mine / rundir.SUMMARY).unlink()
    metrics = (mine / rundir.METRICS).read_bytes()
    assert server.run("train", "--resume", mine, "--quiet") == 2
    told = server.log.read_text()
    assert f"{foreign} has other seed: 2 there and 1 here; remove it" in " ".join(told.split())
    assert (mine / rundir.METRICS).read_bytes() == metrics
    foreign.unlink()
    assert server.run("train", "--resume", mine, "--quiet") == 0
    assert "state" in (mine / rundir.SUMMARY).read_text()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["INT", "TERM"]
)
def test_a_second_signal_does_not_wait_for_the_step(
    server: Server, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    mark, own, log = tmp_path / "mark", tmp_path / "own.py", tmp_path / "log"
    own.write_text(
        "import pathlib, time, trgl, trgl.step\n"
        "def slow(self, *batch, **options):\n"
        f"    pathlib.Path({str(mark)!r}).touch()\n"
        "    time.sleep(300)\n"
        "trgl.step.LocalStep.__call__ = slow\n"
        "def net(shape, classes):\n"
        "    return trgl.models.chain(3, 4, shape[0], kernel_size=3, stride=1)\n"
    )
    at = TINY.index("--filters")  # an own network has its own
    words = ["train", "digits-20x1", *TINY[:at], *TINY[at + 2 :], "--encoder", "stem"]
    words += ["--network", f"{own}:net"]
    server.log = log
    process = server.start(*words, "--out", tmp_path / "run")
    began = time.monotonic()
    wait_for(mark.exists, began)
    os.kill(process, number)
    wait_for(lambda: "once more stops at once" in log.read_text(), began)
    os.kill(process, number)
    assert server.wait() == code
    assert time.monotonic() - began < 100
    assert '"state": "interrupted"' in (tmp_path / "run" / rundir.SUMMARY).read_text()


def wait_for(there: Callable[[], bool], began: float) -> None:
    while not there():
        assert time.monotonic() - began < 100
        time.sleep(0.01)
