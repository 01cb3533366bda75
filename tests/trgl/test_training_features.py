"""What layer-wise schemes elsewhere forbid, in every regime, against the same written by hand.

The loop of this file knows nothing of the trainer: it is what one would write with torch alone, and
its weights are the trainer's bit by bit.
"""

import contextlib
import copy
import json

import pytest
import torch
from small import CLASSES, SHAPE, batches, differing, network, sgd, state
from torch import nn

import trgl
from trgl.cli.main import main
from trgl_kernels import collect_energy

TAU = 0.2
TRAIN = batches(3)
REGIMES = {
    "parallel": [(0, 1), (0, 1)],
    "sequential": [(0,), (0,), (1,), (1,)],
    "multi-lap": [(0,), (1,), (0,), (1,)],
    "end-to-end": [(0,), (0,)],
}


def halving(optimizer):
    return torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)


class Whole(nn.Module):
    """All bodies, and the last head."""

    def __init__(self, net):
        super().__init__()
        self.bodies = nn.ModuleList(module.body for module in net)
        self.head = net[-1].head

    def forward(self, x):
        for body in self.bodies:
            x = body(x)
        return x, self.head(x)


def by_hand(
    net,
    regime,
    *,
    accumulate=1,
    clip_norm=None,
    scheduler=None,
    autocast=None,
    channels_last=False,
    compile=False,
):
    """Two epochs of each module."""
    layout = torch.channels_last if channels_last else torch.preserve_format
    net.to(memory_format=layout)
    modules = [Whole(net)] if regime == "end-to-end" else list(net)
    forwards = [torch.compile(m, backend="eager") if compile else m for m in modules]
    optimizers = [sgd(list(module.parameters())) for module in modules]
    schedulers = [None if scheduler is None else scheduler(o) for o in optimizers]
    scalers = [torch.amp.GradScaler("cpu", enabled=autocast is torch.float16) for _ in modules]
    pending = [0] * len(modules)

    def precision():
        return torch.autocast("cpu", autocast) if autocast else contextlib.nullcontext()

    def step(k):
        scalers[k].unscale_(optimizers[k])
        for parameter in modules[k].parameters():
            if parameter.grad is not None and pending[k] > 1:
                parameter.grad /= pending[k]
        if clip_norm is not None:
            nn.utils.clip_grad_norm_(modules[k].parameters(), clip_norm)
        scalers[k].step(optimizers[k])
        scalers[k].update()
        optimizers[k].zero_grad()
        pending[k] = 0

    for active in REGIMES[regime]:
        net.eval()
        for k in active:
            modules[k].train()
        for images, labels in TRAIN:
            x = images.to(memory_format=layout)
            for k in range(max(active) + 1):
                if k not in active:
                    with torch.no_grad(), precision():
                        x = modules[k].body(x)
                    continue
                with precision():
                    with collect_energy() as energies:
                        x, logits = forwards[k](x)
                    loss = nn.functional.cross_entropy(logits, labels)
                    cost = energies.total()
                loss = torch.add(loss, cost, alpha=1 / (2 * TAU))
                scalers[k].scale(loss).backward()
                x = x.detach()
                pending[k] += 1
                if pending[k] == accumulate:
                    step(k)
        for k in active:
            if pending[k]:
                step(k)
            if schedulers[k] is not None:
                schedulers[k].step()


FEATURES = {
    "accumulate": {"accumulate": 2},  # of three batches
    "clip": {"clip_norm": 0.2},
    "schedule": {"scheduler": halving},
    "bfloat16": {"autocast": torch.bfloat16},
    "float16": {"autocast": torch.float16},
    "channels_last": {"channels_last": True},
    "compile": {"compile": {"backend": "eager"}},
    "together": {
        "accumulate": 2,
        "clip_norm": 0.2,
        "scheduler": halving,
        "autocast": torch.float16,
        "channels_last": True,
    },
}


# torch keeps what an autograd function saves in a graph that the compiled module runs
@pytest.mark.filterwarnings("ignore::trgl_kernels.boundary.BoundaryWarning")
@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("feature", FEATURES)
def test_it_is_what_one_would_write_by_hand_bit_by_bit(feature, regime):
    options = FEATURES[feature]
    torch.compiler.reset()
    net = network(modules=2, blocks=2, block="post-activation")
    twin, start, plain = copy.deepcopy(net), state(net), copy.deepcopy(net)
    common = {"optimizer": sgd, "transport": trgl.Transport(TAU), "epochs": 2}
    if regime == "multi-lap":
        common["laps"] = 2
    trainer = trgl.Trainer(net, regime, **common, **options)
    trainer.fit(TRAIN)
    by_hand(twin, regime, **{**options, "compile": "compile" in options})
    assert not differing(state(net), state(twin))
    moved = [name for name in differing(start, state(net)) if name.endswith("weight")]
    assert {name.split(".")[1] for name in moved} == {"0", "1"}
    if feature not in ("compile", "channels_last"):  # and it makes a difference
        trgl.Trainer(plain, regime, **common).fit(TRAIN)
        assert differing(state(net), state(plain))


@pytest.mark.parametrize("feature", ["accumulate", "clip", "bfloat16", "channels_last"])
def test_local_losses_go_with_it(feature):
    net = network(modules=2, blocks=2, local_loss="reconstruction")
    trainer = trgl.Trainer(net, optimizer=sgd, epochs=6, **FEATURES[feature])
    records = trainer.fit(TRAIN).records
    for number in (1, 2):
        assert records[-1].train_loss[number] < records[0].train_loss[number]


def test_clipping_bounds_a_local_loss_too():
    net = network(modules=1, blocks=1, local_loss="similarity")
    norms = []

    class Watched(torch.optim.SGD):
        def step(self):
            gradients = [p.grad for group in self.param_groups for p in group["params"]]
            norms.append(torch.stack([g.norm() for g in gradients]).norm().item())
            super().step()

    before = state(net)
    trgl.Trainer(net, optimizer=lambda p: Watched(p, lr=0.1), epochs=1, clip_norm=1e-3).fit(TRAIN)
    assert norms == pytest.approx([1e-3] * 3, rel=1e-3)
    assert "stages.0.local_loss.project.weight" in differing(before, state(net))


@pytest.mark.parametrize("shared", [False, True], ids=["own-heads", "shared-head"])
def test_accumulating_is_no_surprise_to_the_boundary(shared, monkeypatch):
    """It walks all that it must not touch only when it searches, or finds something odd."""
    model = trgl.models.chain(2, 32, SHAPE[0], kernel_size=3, stride=1)  # gradients of 36 KiB
    options = {"encoder": "stem", "freeze_encoder": True, "shared_head": shared}
    net = trgl.split(model, 2, SHAPE, CLASSES, "linear", **options)
    net.calibrate(TRAIN)
    trainer = trgl.Trainer(net, optimizer=sgd, epochs=1, accumulate=3)
    trainer.fit(batches(9))  # past the steps in which boundaries always search
    walks = []
    for step in trainer.steps:
        original = step.boundary._protected

        def counted(original=original):
            walks.append(1)
            return original()

        monkeypatch.setattr(step.boundary, "_protected", counted)
    images, labels = batches(1)[0]
    x = net.encoder(images)
    before = state(net)
    for _ in range(9):
        y = x
        for step in trainer.steps:
            y = step(y, labels)
    assert differing(before, state(net))
    assert not walks


def test_the_command_line_has_them(tmp_path):
    words = ["train", "digits-20x1", "--modules", "2", "--filters", "4", "--train-size", "30"]
    words += ["--epochs", "3", "--evaluate-every", "3", "--batch-size", "12", "--threads", "1"]
    words += ["--accumulate", "2", "--clip-norm", "0.5", "--autocast", "bfloat16"]
    words += ["--channels-last", "--schedule", "cosine", "--warmup", "1", "--optimizer", "adamw"]
    words += ["--no-decay-norms", "--local-loss", "similarity", "--local-loss-weight", "0.5"]
    assert main([*words, "--out", str(tmp_path / "run"), "--quiet"]) == 0
    recipe = json.loads((tmp_path / "run" / "config.json").read_text())["recipe"]
    assert (recipe["accumulate"], recipe["clip_norm"], recipe["autocast"]) == (2, 0.5, "bfloat16")
    assert (recipe["channels_last"], recipe["local_loss"]) == (True, "similarity")
    rows = [json.loads(r) for r in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    rates = [row["learning_rate"] for row in rows if row["module"] == 2]
    assert rates == pytest.approx([0.0015, 0.003, 0.0015])
