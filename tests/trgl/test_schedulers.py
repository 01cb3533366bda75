import functools
import math

import pytest
import torch
import torchvision
from small import batches, network, sgd
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, MultiStepLR

import trgl
import trgl.optimizers
from trgl import Schedule


def rates_of(schedule, epochs, base=0.1, seen=None):
    """Learning rates of `seen` epochs as an optimizer gets them."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=base)
    scheduler = schedule.start(optimizer, epochs)
    rates = []
    for _ in range(epochs if seen is None else seen):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def rates_of_torch(build, epochs, base=0.1):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=base)
    scheduler = build(optimizer)
    rates = []
    for _ in range(epochs):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_milestones_are_those_of_torch_bit_by_bit():
    wanted = rates_of_torch(lambda o: MultiStepLR(o, [3, 5, 8], gamma=0.2), 12)
    assert rates_of(Schedule(shape="milestones", milestones=(3, 5, 8)), 12) == wanted


def test_a_cosine_without_warmup_is_that_of_torch():
    wanted = rates_of_torch(lambda o: CosineAnnealingLR(o, 10, eta_min=0.02), 10)
    assert rates_of(Schedule(shape="cosine", minimum=0.02), 10) == pytest.approx(wanted, rel=1e-12)


def test_a_warmup_rises_in_a_straight_line_and_the_cosine_has_the_other_epochs():
    rates = rates_of(Schedule(shape="cosine", warmup=3, minimum=0.01), 9, base=0.4)
    assert rates[:4] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    for t in range(3, 9):
        wanted = 0.01 + 0.39 * (1 + math.cos(math.pi * (t - 3) / 6)) / 2
        assert rates[t] == pytest.approx(wanted, rel=1e-12)


def test_warmup_comes_before_a_constant_rate_and_milestones_alike():
    assert rates_of(Schedule(warmup=1), 3, base=0.2) == pytest.approx([0.1, 0.2, 0.2])
    shape = Schedule(shape="milestones", milestones=(3,), divisor=10, warmup=1)
    assert rates_of(shape, 5, base=0.2) == pytest.approx([0.1, 0.2, 0.2, 0.02, 0.02])


def test_a_cosine_that_is_over_stays_at_its_minimum():
    rates = rates_of(Schedule(shape="cosine", minimum=0.01), 4, seen=8)
    assert rates[4:] == [0.01] * 4


def test_every_group_of_an_optimizer_keeps_its_own_base():
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (0.4, 0.1)]
    optimizer = torch.optim.SGD(groups)
    scheduler = Schedule(shape="cosine").start(optimizer, 2)
    optimizer.step()
    scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.2, 0.05])


def test_its_state_is_numbers_and_goes_on_from_there():
    schedule = Schedule(shape="cosine", warmup=2)
    whole = rates_of(schedule, 8)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = schedule.start(optimizer, 8)
    for _ in range(5):
        optimizer.step()
        scheduler.step()
    saved, groups = scheduler.state_dict(), optimizer.state_dict()
    assert all(isinstance(v, int | float | bool | list) or v is None for v in saved.values())
    other = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    again = schedule.start(other, 8)
    other.load_state_dict(groups)
    again.load_state_dict(saved)
    other.step()
    again.step()
    assert other.param_groups[0]["lr"] == whole[6]


@pytest.mark.parametrize("regime", ["parallel", "sequential", "multi-lap", "end-to-end"])
def test_each_module_has_the_schedule_over_its_own_epochs(regime):
    epochs = [4, 4] if regime == "parallel" else [4, 6]
    schedule = Schedule(shape="cosine", warmup=1)
    options = {"laps": 2} if regime == "multi-lap" else {}
    whole = regime == "end-to-end"
    trainer = trgl.Trainer(
        network(modules=2),
        regime,
        optimizer=sgd,
        scheduler=schedule,
        epochs=6 if whole else epochs,
        **options,
    )
    records = trainer.fit(batches(count=1)).records
    for number, count in {2: 6}.items() if whole else enumerate(epochs, 1):
        rates = [r.learning_rate[number] for r in records if number in r.trained]
        assert rates == rates_of(schedule, count, base=0.05)


def test_a_shared_head_has_the_schedule_over_the_whole_run():
    net = network(modules=2, encoder="stem", freeze_encoder=True, shared_head=True)
    schedule = Schedule(shape="cosine")
    trainer = trgl.Trainer(net, "sequential", optimizer=sgd, scheduler=schedule, epochs=[2, 3])
    seen = []
    shared = trainer.schedulers.shared[0].optimizer
    trainer.fit(batches(count=1), on_epoch=lambda _: seen.append(shared.param_groups[0]["lr"]))
    assert seen == [schedule.rate(0.05, epoch, 5) for epoch in range(1, 6)]


@pytest.mark.filterwarnings("error")
def test_a_shared_head_waits_for_an_encoder_that_trains_first():
    net = network(modules=2, encoder="stem", shared_head=True)
    schedule = Schedule(shape="cosine")
    trainer = trgl.Trainer(net, "sequential", optimizer=sgd, scheduler=schedule, epochs=[2, 2, 3])
    seen = []
    shared = trainer.schedulers.shared[0].optimizer
    trainer.fit(batches(count=1), on_epoch=lambda _: seen.append(shared.param_groups[0]["lr"]))
    assert seen == [0.05] * 2 + [schedule.rate(0.05, epoch, 5) for epoch in range(1, 6)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shape": "linear"}, "one of constant, milestones, cosine, but got 'linear'"),
        ({"milestones": (3, 2)}, r"increasing order, but got \[3, 2\]"),
        ({"milestones": (0,)}, "from 1 on"),
        ({"milestones": (True,)}, "from 1 on"),
        ({"warmup": -1}, "at least 0, but got -1"),
        ({"warmup": 1.5}, "got 1.5"),
        ({"divisor": 1}, "above 1, but got 1"),
        ({"divisor": float("nan")}, "got nan"),
        ({"minimum": -0.1}, "got -0.1"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Schedule(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"warmup": 3}, "3 epochs with one that trains for 3"),
        ({"shape": "cosine", "minimum": 0.1}, "got 0.1 with 0.05"),
    ],
)
def test_a_schedule_that_does_not_fit_is_refused_when_the_trainer_is_built(settings, message):
    with pytest.raises(ValueError, match=message):
        trgl.Trainer(network(), optimizer=sgd, scheduler=Schedule(**settings), epochs=3)


def test_weight_decay_leaves_biases_norms_and_tables_alone():
    swin = torchvision.models.SwinTransformer(
        [2, 2], 8, [1, 1], [1, 2], [2, 2], stochastic_depth_prob=0.0, num_classes=3
    )
    net = trgl.split(swin, 2, (3, 8, 8), 3, "pool-linear")
    builder = functools.partial(torch.optim.AdamW, lr=0.1, weight_decay=0.5)
    names = {id(p): name for name, p in net.named_parameters()}
    seen = {}
    for module in net:
        optimizer = trgl.without_decay(builder, net)(list(module.parameters()))
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                seen[names[id(parameter)]] = group["weight_decay"]
    assert set(seen) == set(names.values())
    for name, decay in seen.items():
        spared = name.endswith("bias") or "norm" in name or "relative_position" in name
        layer = net.get_submodule(name.rpartition(".")[0])
        assert decay == (0.0 if spared or isinstance(layer, nn.LayerNorm) else 0.5), name
    assert sum(decay == 0.5 for decay in seen.values()) >= 12


def test_weight_decay_leaves_the_tokens_of_a_vit_alone():
    vit = torchvision.models.VisionTransformer(8, 4, 2, 2, 8, 16, num_classes=3)
    net = trgl.split(vit, 2, (3, 8, 8), 3, "pool-linear")
    spared = {id(p) for p in trgl.optimizers.undecayed(net)}
    names = {name for name, p in net.named_parameters() if id(p) in spared and p.dim() > 1}
    assert {name.split(".body.")[1] for name in names} == {
        "class_token.value",
        "encoder.pos_embedding.value",
    }
