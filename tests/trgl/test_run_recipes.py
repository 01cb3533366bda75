"""Recipes as runs: every kind trains, and every field reaches the trainer."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import few_digits, run_once, small

from trgl import recipes
from trgl.build import build_network
from trgl.data import ImageData
from trgl.prepare import Task, make_transport, prepare
from trgl.rundir import read_metrics
from trgl.schedulers import Schedule
from trgl.transport import Multipliers, Transport


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return few_digits(90)


@pytest.mark.parametrize(
    ("changes", "epochs"),
    [
        ({"regime": "sequential", "epochs": 1, "epochs_step": 1}, [1] * 2 + [2] * 3 + [3] * 4),
        ({"regime": "multi-lap", "laps": 2, "epochs": 2}, [1, 2, 3, 1, 2, 3]),
    ],
)
def test_other_regimes(
    tmp_path: Path, digits: ImageData, changes: dict[str, Any], epochs: list[int]
) -> None:
    run_once(tmp_path / "run", digits, small(**changes), "transport")
    rows = read_metrics(tmp_path / "run")
    assert [row["module"] for row in rows if row["train_loss"] is not None] == epochs


@pytest.mark.parametrize(
    "changes",
    [
        {"block": "post-activation"},
        {"head": "mlp", "shared_head": False},
        {"head": "conv", "recompute_heads": 1},
        {"head": "pool-linear"},
        {"recompute": "residue", "channels_last": True},
        {"encoder": "trained"},
        {"energy": "module"},
        {"energy": "displacement"},
        {"optimizer": "adamw"},
        {"weighting": "doubled"},
        {"weighting": "multipliers"},
        {"network": "resnet18", "encoder": "stem", "modules": 2},
        {"init": "own", "label_smoothing": 0.1, "flip": True, "blocks": 2},
    ],
    ids=lambda changes: " ".join(f"{key}={value}" for key, value in changes.items()),
)
def test_every_kind_of_recipe_trains(
    tmp_path: Path, digits: ImageData, changes: dict[str, Any]
) -> None:
    short = {"epochs": 1, "shared_head": "head" not in changes and "network" not in changes}
    summary = run_once(tmp_path / "run", digits, small(**{**short, **changes}))
    assert summary["state"] == "done"
    assert math.isfinite(summary["loss"]["last_module_last_epoch"])


def test_encoder_and_heads_start_from_draws_of_their_own(digits: ImageData) -> None:
    recipe = small(init="own", filters=10, encoder_kernel=1, blocks=1)
    network = build_network(recipe, digits, 0)
    first = next(iter(network.encoder.parameters())).detach().flatten()  # [10]
    head = network[0].head[0].weight.detach().flatten()
    scale = float(first[0] / head[0])
    assert not torch.allclose(first, scale * head[:10])


def test_penalties_of_recipes() -> None:
    assert make_transport(small(tau=0.3)) == Transport(0.3)
    assert make_transport(small(weighting="doubled")) == Transport(0.05, double=True)
    assert make_transport(small(weighting="multipliers", multiplier_every=7)) == Multipliers(
        every=7
    )


def test_optimizers_and_schedules_of_recipes(digits: ImageData) -> None:
    swin = small(
        optimizer="adamw",
        weight_decay=0.05,
        decay_norms=False,
        schedule="cosine",
        warmup=1,
        minimum_learning_rate=1e-4,
        epochs=4,
        end_to_end_schedule="milestones",
        end_to_end_milestones=(2,),
    )
    for method, schedule in (
        ("vanilla", Schedule(shape="cosine", warmup=1, minimum=1e-4)),
        ("end-to-end", Schedule(shape="milestones", milestones=(2,), warmup=1, minimum=1e-4)),
    ):
        trainer = prepare(Task(swin, method, 0), digits).trainer
        base = swin.learning_rate if method == "vanilla" else swin.end_to_end_learning_rate
        for optimizer in {o for step in trainer.steps for o in step.optimizers}:
            assert isinstance(optimizer, torch.optim.AdamW)
            for group in optimizer.param_groups:
                kinds = {p.dim() > 1 for p in group["params"]}
                assert kinds == {group["weight_decay"] == 0.05}
            assert optimizer.param_groups[0]["lr"] == schedule.rate(base, 0, 4)
        (every,) = {s.schedule for each in trainer.schedulers.own.values() for s in each}
        assert every == schedule


def test_end_to_end_training_may_have_epochs_of_its_own(tmp_path: Path, digits: ImageData) -> None:
    recipe = small(epochs=1, end_to_end_epochs=2, end_to_end_milestones=())
    epochs = {method: prepare(Task(recipe, method, 0), digits) for method in recipes.METHODS}
    assert {m: p.trainer.epochs_total for m, p in epochs.items()} == {
        "vanilla": 1,
        "transport": 1,
        "end-to-end": 2,
    }
    assert prepare(Task(small(), "end-to-end", 0), digits).trainer.epochs_total == 4


def test_training_features_of_recipes_reach_the_trainer(digits: ImageData) -> None:
    recipe = small(
        accumulate=3, clip_norm=0.5, autocast="float16", compile=True, channels_last=True
    )
    plain = prepare(Task(small(), "vanilla", 0), digits).trainer
    for step in plain.steps:
        assert (step.accumulate, step.clip_norm, step.scaler) == (1, None, None)
        assert step.forward is step.module
    for method in ("vanilla", "transport", "end-to-end"):
        trainer = prepare(Task(recipe, method, 0), digits).trainer
        assert trainer.autocast is torch.float16
        assert trainer.channels_last
        for step in trainer.steps:
            assert (step.accumulate, step.clip_norm) == (3, 0.5)
            assert step.scaler is not None
            assert step.forward is not step.module
    bfloat16 = prepare(Task(small(autocast="bfloat16"), "vanilla", 0), digits).trainer
    assert bfloat16.autocast is torch.bfloat16
