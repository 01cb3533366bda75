import copy
from itertools import pairwise

import pytest
import torch
from small import differing, network, sgd, state
from torch import nn
from training import FLAT, TEST, TRAIN, X, dropout_network, halving, trained

import trgl
from trgl import Multipliers, Trainer, Transport

REGIMES = [
    ("parallel", {"epochs": 2}),
    ("sequential", {"epochs": [1, 2, 1]}),
    ("multi-lap", {"epochs": lambda k: 2 * k, "laps": 2}),
    ("end-to-end", {"epochs": 2}),
]


REGIME_IDS = [name for name, _ in REGIMES]


@pytest.mark.parametrize(("regime", "options"), REGIMES, ids=REGIME_IDS)
def test_two_runs_of_one_seed_are_the_same_bit_by_bit(regime, options):
    runs = []
    for noise in (1, 2):
        net = dropout_network()
        torch.manual_seed(noise)
        generator = torch.get_rng_state()
        _, history = trained(net, regime, data=FLAT, test=FLAT, **options)
        assert torch.equal(torch.get_rng_state(), generator)
        runs.append(
            (state(net), [r.as_dict() | {"seconds": 0, "memory": 0} for r in history.records])
        )
    assert not differing(runs[0][0], runs[1][0])
    assert runs[0][1] == runs[1][1]
    other = dropout_network()
    trained(other, regime, data=FLAT, seed=1, **options)
    assert differing(runs[0][0], state(other))


@pytest.mark.parametrize("frozen_encoder", [False, True])
@pytest.mark.parametrize("transport", [None, Transport(0.5)], ids=["vanilla", "transport"])
def test_frozen_modules_do_not_move_by_a_bit(frozen_encoder, transport):
    net = network(modules=3, encoder="stem", freeze_encoder=frozen_encoder)
    numbers = [1, 2, 3] if frozen_encoder else [0, 1, 2, 3]
    seen = [state(net)]

    def check(record):
        now = state(net)
        moved = differing(seen[-1], now)
        (number,) = record.trained
        prefix = "encoder." if number == 0 else f"stages.{number - 1}."
        assert all(name.startswith(prefix) for name in moved)
        assert any("running_mean" in name for name in moved)
        assert any(".body." in name and "weight" in name for name in moved)
        seen.append(now)

    trainer = Trainer(net, "sequential", optimizer=sgd, epochs=2, transport=transport)
    history = trainer.fit(TRAIN, TEST, on_epoch=check)
    assert [record.trained for record in history.records] == [(k,) for k in numbers for _ in "ab"]


def test_parallel_modules_whose_epochs_are_over_do_not_move_either():
    net = network(modules=3)
    seen = [state(net)]
    trainer = Trainer(net, optimizer=sgd, epochs=[1, 3, 2])
    trainer.fit(TRAIN, on_epoch=lambda record: seen.append(state(net)))
    moved = [{name[:8] for name in differing(a, b)} for a, b in pairwise(seen)]
    assert moved == [
        {"stages.0", "stages.1", "stages.2"},
        {"stages.1", "stages.2"},
        {"stages.1"},
    ]


def test_one_lap_is_sequential_bit_by_bit():
    nets = [network(modules=3, encoder="stem") for _ in range(2)]
    options = {"epochs": lambda k: k + 1, "transport": Multipliers(every=2), "scheduler": halving}
    _, one = trained(nets[0], "sequential", test=TEST, **options)
    _, two = trained(nets[1], "multi-lap", laps=1, test=TEST, **options)
    assert not differing(state(nets[0]), state(nets[1]))
    assert [r.test for r in one.records] == [r.test for r in two.records]


def test_state_goes_on_across_laps():
    made = []

    def builder(parameters):
        made.append(torch.optim.Adam(parameters, lr=0.01))
        return made[-1]

    net = network(modules=2)
    trainer, history = trained(
        net,
        "multi-lap",
        laps=3,
        epochs=3,
        optimizer=builder,
        scheduler=halving,
        transport=Multipliers(initial=1.0, growth=1.0, every=1),
    )
    assert len(made) == 2
    for optimizer in made:
        steps = {int(entry["step"]) for entry in optimizer.state.values()}
        assert steps == {9}  # three laps of one epoch of three batches
    assert [r.learning_rate for r in history.records] == [
        {k: 0.01 * 0.5**lap} for lap in range(3) for k in (1, 2)
    ]
    weights = [record.weight for record in history.records]
    assert [list(weight) for weight in weights] == [[1], [2]] * 3
    assert weights[0][1] < weights[2][1] < weights[4][1]
    assert [record.lap for record in history.records] == [1, 1, 2, 2, 3, 3]
    assert trainer.epochs_total == 6


def test_a_shared_head_has_an_optimizer_of_its_own_that_steps_once_per_module():
    made = []

    def builder(parameters):
        made.append(torch.optim.Adam(parameters, lr=0.01))
        return made[-1]

    net = network(modules=3, shared_head=True, encoder="stem", freeze_encoder=True)
    _, history = trained(net, optimizer=builder, epochs=2, scheduler=halving)
    assert len(made) == 4
    sets = [{id(p) for p in o.param_groups[0]["params"]} for o in made]
    shared = {id(p) for p in net[0].head.parameters()}
    (head,) = [o for o, s in zip(made, sets, strict=True) if s == shared]
    assert sum(len(s) for s in sets) == len(set().union(*sets))
    assert {int(entry["step"]) for entry in head.state.values()} == {2 * 3 * 3}
    assert {int(e["step"]) for o in made if o is not head for e in o.state.values()} == {6}
    assert head.param_groups[0]["lr"] == 0.01 / 4  # once per epoch
    assert history.records[1].learning_rate == {1: 0.005, 2: 0.005, 3: 0.005}


def test_a_frozen_shared_head_stays():
    net = network(modules=2, head="mlp", shared_head=True, freeze_head=True)
    before = state(net[0].head)
    trained(net, optimizer=sgd)
    assert not differing(before, state(net[0].head))


def test_criteria_of_ones_own():
    seen = []

    def watched(number):
        def criterion(logits, labels):
            seen.append(number)
            return nn.functional.cross_entropy(logits, labels, label_smoothing=0.1)

        return criterion

    net = network(modules=2)
    trained(net, criterion=[watched(1), watched(2)], epochs=1)
    assert seen == [1, 2] * 3


def test_plateaus_see_the_loss_of_their_module():
    def plateau(optimizer):
        return torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, patience=0, threshold=1e9, threshold_mode="abs", factor=0.1
        )

    _, history = trained(network(modules=2), scheduler=plateau, epochs=3)
    assert [r.learning_rate[1] for r in history.records] == pytest.approx([0.05, 0.05, 0.005])


def test_a_diverging_run_names_module_and_epoch():
    def wild(parameters):
        return torch.optim.SGD(parameters, lr=1e20)

    net = network(modules=2, head="mlp")
    with pytest.raises(
        trgl.DivergenceError, match=r"Module 1 diverged in epoch 1, step 2 of it: .*clip_norm"
    ):
        trained(net, optimizer=wild)
    assert issubclass(trgl.DivergenceError, RuntimeError)


# torch keeps what an autograd function saves in a graph that this backend runs; it is released
@pytest.mark.filterwarnings("ignore::trgl_kernels.boundary.BoundaryWarning")
def test_compiled_modules_learn_the_same():
    # the backend traces like any other, and then runs eager PyTorch
    options = {"compile": {"backend": "eager", "fullgraph": True}, "transport": Transport(0.1)}
    net, twin = (network(modules=2, block="post-activation") for _ in range(2))
    trained(net, epochs=2, test=TEST, **options)
    trained(twin, epochs=2, test=TEST, transport=Transport(0.1))
    for mine, wanted in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine, wanted)


def test_channels_last_learns_the_same():
    net, twin = (network(modules=2, block="post-activation") for _ in range(2))
    seen = []
    net[0].body.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    options = {"data": TRAIN[:1], "epochs": 1, "transport": Transport(0.1)}
    trained(net, channels_last=True, **options)
    trained(twin, **options)
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x in seen)
    for mine, wanted in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-4, atol=1e-6)


def test_precision_accumulation_and_clipping_together():
    net = network(modules=2, encoder="stem", freeze_encoder=True, shared_head=True)
    trainer, history = trained(
        net,
        autocast=torch.bfloat16,
        accumulate=2,
        clip_norm=1.0,
        transport=Multipliers(every=1),
        epochs=8,
        test=TEST,
    )
    assert history.records[-1].train_loss[2] < history.records[0].train_loss[2]
    assert trainer.weights.state_dict()["iterations"] == [16, 16]  # two steps for three batches


def test_neither_a_backward_pass_nor_an_interrupted_run_leaves_anything_behind():
    class Stop(Exception):
        pass

    def stop(epoch, step):
        raise Stop

    options = {"optimizer": sgd, "accumulate": 2, "epochs": 2}
    net, twin = (network(modules=2, shared_head=True, encoder="stem") for _ in range(2))
    start = copy.deepcopy(net.state_dict())
    trainer = Trainer(net, **options)
    with pytest.raises(Stop):
        trainer.fit(TRAIN, on_step=stop)  # in the middle of an optimizer step
    net.load_state_dict(start)
    net.train()(X).sum().backward()
    net.load_state_dict(start)
    trainer.fit(TRAIN)
    Trainer(twin, **options).fit(TRAIN)
    assert not differing(state(net), state(twin))
