import copy
import json
from itertools import pairwise

import pytest
import torch
import torchvision
from small import CLASSES, SHAPE, Once, batches, differing, network, sgd, state
from torch import nn

import trgl
from trgl import Multipliers, Trainer, Transport

TRAIN = batches(3)
TEST = batches(2, seed=1)


def trained(net, regime="parallel", *, data=TRAIN, test=None, validation=None, **options):
    options.setdefault("epochs", 2)
    options.setdefault("optimizer", sgd)
    trainer = Trainer(net, regime, **options)
    return trainer, trainer.fit(data, test, validation)


REGIMES = [
    ("parallel", {"epochs": 2}),
    ("sequential", {"epochs": [1, 2, 1]}),
    ("multi-lap", {"epochs": lambda k: 2 * k, "laps": 2}),
    ("end-to-end", {"epochs": 2}),
]
REGIME_IDS = [name for name, _ in REGIMES]


def dropout_network(seed=0):
    torch.manual_seed(seed)
    blocks = [
        nn.Sequential(nn.Linear(72, 8), nn.Dropout(0.3), nn.ReLU()),
        nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.3)),
        nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.3)),
    ]
    return trgl.split(nn.Sequential(*blocks), 3, (72,), CLASSES, "mlp", seed=seed)


FLAT = [(x.flatten(1), y) for x, y in TRAIN]


@pytest.mark.parametrize(("regime", "options"), REGIMES, ids=REGIME_IDS)
def test_two_runs_of_one_seed_are_the_same_bit_by_bit(regime, options):
    runs = []
    for noise in (1, 2):
        net = dropout_network()
        torch.manual_seed(noise)
        generator = torch.get_rng_state()
        _, history = trained(net, regime, data=FLAT, test=FLAT, **options)
        assert torch.equal(torch.get_rng_state(), generator)
        runs.append((state(net), [r.as_dict() | {"seconds": 0} for r in history.records]))
    assert not differing(runs[0][0], runs[1][0])
    assert runs[0][1] == runs[1][1]
    other = dropout_network()
    trained(other, regime, data=FLAT, seed=1, **options)
    assert differing(runs[0][0], state(other))


def by_hand(net, data, epochs, optimizer, scheduler=None):
    """End-to-end training as everyone writes it."""
    criterion = nn.CrossEntropyLoss()
    optimizer = optimizer(net.parameters())
    scheduler = None if scheduler is None else scheduler(optimizer)
    losses = []
    torch.manual_seed(0)
    for _ in range(epochs):
        net.train()
        for images, labels in data:
            optimizer.zero_grad()
            loss = criterion(net(images), labels)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        if scheduler is not None:
            scheduler.step()
    return losses


def halving(optimizer):
    return torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)


def resnet():
    torch.manual_seed(0)
    block = torchvision.models.resnet.BasicBlock
    model = torchvision.models.resnet.ResNet(block, [1, 1, 1, 1], num_classes=CLASSES)
    model.maxpool = nn.Identity()
    return trgl.split(model, 1, (3, 8, 8), CLASSES, "conv", seed=0)


@pytest.mark.parametrize("regime", ["parallel", "sequential", "multi-lap", "end-to-end"])
@pytest.mark.parametrize("optimizer", [sgd, torch.optim.AdamW], ids=["sgd", "adamw"])
def test_one_module_without_penalty_is_the_loop_that_everyone_writes(regime, optimizer):
    net = network(modules=1, block="post-activation")
    twin = copy.deepcopy(net)
    _, history = trained(net, regime, optimizer=optimizer, scheduler=halving, epochs=3)
    losses = by_hand(twin, TRAIN, 3, optimizer, halving)
    assert not differing(state(net), state(twin))
    assert history.records[2].train_loss[1] == pytest.approx(sum(losses[6:]) / 3, rel=1e-6)


def test_one_module_of_a_torchvision_resnet_with_its_stem_is_the_loop_that_everyone_writes():
    data = [(torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 0])) for _ in range(2)]
    net, twin = resnet(), resnet()
    trained(net, data=data)
    by_hand(twin, data, 2, sgd)
    assert not differing(state(net), state(twin))


def test_dropout_draws_what_it_draws_by_hand():
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(72, 8), nn.Dropout(0.5), nn.ReLU())
    net = trgl.split(body, 1, (72,), CLASSES, "linear")
    twin = copy.deepcopy(net)
    trained(net, data=FLAT)
    by_hand(twin, FLAT, 2, sgd)
    assert not differing(state(net), state(twin))


def test_end_to_end_trains_everything_but_the_inner_heads():
    net = network(modules=3, encoder="stem")
    before = state(net)
    trainer, history = trained(net, "end-to-end", test=TEST)
    moved = differing(before, state(net))
    inner = {f"stages.{k}.head" for k in (0, 1)} | {"encoder.head"}
    assert not [name for name in moved if any(name.startswith(head) for head in inner)]
    parameters = {n for n, _ in net.named_parameters() if not any(n.startswith(h) for h in inner)}
    assert parameters <= set(moved)
    assert history.final.modules == (3,)
    assert len(trainer.steps) == 1
    # the same as a hand-written loop over the same layers
    twin = network(modules=3, encoder="stem")
    by_hand(twin.assemble(), TRAIN, 2, sgd)
    assert not differing(state(net), state(twin))


def test_end_to_end_with_transport_penalizes_all_blocks():
    net = network(modules=3, encoder="stem")
    _, history = trained(net, "end-to-end", transport=Transport(0.2), epochs=1)
    assert history.records[0].cost[3] > 0
    assert history.records[0].weight == {3: 2.5}
    plain = network(modules=3, encoder="stem")
    trained(plain, "end-to-end", epochs=1)
    assert differing(state(net), state(plain))
    with pytest.raises(ValueError, match="cannot double"):
        Trainer(net, "end-to-end", optimizer=sgd, transport=Transport(0.2, double=True))


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


def test_modules_train_in_parallel_as_each_would_alone_on_the_features_of_the_one_before():
    net, twin = (network(modules=2, blocks=2) for _ in range(2))
    transport = Transport(0.1, double=True)
    trained(net, epochs=1, transport=transport)
    optimizers = [sgd(list(module.parameters())) for module in twin]
    twin.train()
    for images, labels in TRAIN:
        x = images
        for module, optimizer, tau in zip(twin, optimizers, (0.1, 0.2), strict=True):
            residue = []
            convolution = module.body.units[-1].conv2
            handle = convolution.register_forward_hook(lambda m, a, r, to=residue: to.append(r))
            features, logits = module(x)
            handle.remove()
            cost = residue[-1].square().mean()
            loss = nn.functional.cross_entropy(logits, labels) + cost / (2 * tau)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            x = features.detach()
    for mine, wanted in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-4, atol=1e-6)


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


def test_evaluation_is_the_accuracy_and_loss_of_every_module_on_all_images():
    net = network(modules=2, encoder="stem")
    trainer, history = trained(net, test=TEST, validation=TRAIN, epochs=2)
    images, labels = (torch.cat(parts) for parts in zip(*TEST, strict=True))
    assert not net.training
    final = history.final
    assert final.modules == (0, 1, 2)
    assert final.samples == 16
    logits = [logits for _, _, logits in net.walk(images)]
    assert final.accuracy == tuple((z.argmax(1) == labels).double().mean().item() for z in logits)
    expected = [nn.functional.cross_entropy(z, labels).item() for z in logits]
    assert final.loss == pytest.approx(expected)
    assert trainer.evaluate(TEST) == final
    assert history.records[-1].validation.samples == 24
    assert history.best_module()[0] in (1, 2)
    json.dumps(history.as_dict())


def test_records_hold_what_was_measured():
    net = network(modules=2, encoder="stem")
    calls, steps = [], []
    trainer = Trainer(
        net, optimizer=sgd, epochs=5, evaluate_every=2, transport=Transport([0.5, 0.25])
    )
    history = trainer.fit(
        TRAIN, TEST, on_epoch=calls.append, on_step=lambda *where: steps.append(where)
    )
    assert tuple(calls) == history.records
    assert steps == [(epoch, batch) for epoch in range(1, 6) for batch in (1, 2, 3)]
    assert [r.test is not None for r in history.records] == [False, True, False, True, True]
    first = history.records[0]
    assert (first.epoch, first.lap, first.trained) == (1, 1, (0, 1, 2))
    assert set(first.cost) == set(first.weight) == {1, 2}
    assert first.weight == {1: 1.0, 2: 2.0}
    assert all(0 <= accuracy <= 1 for accuracy in first.train_accuracy.values())
    assert first.validation is None
    assert first.seconds > 0
    losses = [record.train_loss[2] for record in history.records]
    assert losses[-1] < losses[0]


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


def test_loaders_need_neither_length_nor_labels():
    first, second = network(modules=2), network(modules=2)
    trained(first, data=TRAIN, test=TEST)
    trained(second, data=Once(TRAIN), test=Once(TEST))
    assert not differing(state(first), state(second))
    dataset = torch.utils.data.TensorDataset(*(torch.cat(p) for p in zip(*TRAIN, strict=True)))
    third = network(modules=2)
    trained(third, data=torch.utils.data.DataLoader(dataset, 8), test=TEST)
    assert not differing(state(first), state(third))

    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(dataset)

    fourth = network(modules=2)
    trained(fourth, data=torch.utils.data.DataLoader(Stream(), 8), test=TEST)
    assert not differing(state(first), state(fourth))


X, Y = TRAIN[0]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "at least one batch"),
        (Once([]), "at least one batch"),
        ([(X, Y + 1)], "from 0 to 2, but the training set has labels from 1 to 3"),
        (Once([(X, Y), (X, Y - 1)]), "labels from -1 to 1"),
        ([(X, Y[:3])], "8 images and labels"),
        ([(X.flatten(1), Y)], "was split for images"),
        ([(X.to(torch.uint8), Y)], "torch.uint8"),
        ([X], "a pair of tensors"),
        ([(X, Y.tolist())], "a pair of tensors"),
        (iter(TRAIN), "every epoch can iterate again"),
        (3, "every epoch can iterate again"),
        (None, "every epoch can iterate again, but got NoneType"),
        ([(X.double(), Y)], "type of the network, torch.float32, but the training.*float64"),
        ([(X, Y.int())], r"labels.long\(\)"),
        ([(X, Y.bool())], "torch.bool"),
        ([(X, Y[:, None])], r"of shape \[8, 1\]"),
        ([(X, torch.zeros(8, 4))], r"\[N, 3\], but the training set has torch.float32"),
    ],
)
def test_data_that_cannot_be_trained_on_is_refused_before_a_step(data, message):
    net = network(modules=2)
    before = state(net)
    if isinstance(data, Once) and data.items:
        before = None  # its second batch is wrong
    with pytest.raises(ValueError, match=message):
        trained(net, data=data)
    assert before is None or not differing(before, state(net))


def test_a_loader_that_shows_its_labels_is_checked_as_a_whole():
    loader = Once([(X, Y)])
    loader.labels = torch.tensor([0, 1, 7])
    with pytest.raises(ValueError, match="num_classes=8"):
        trained(network(modules=1), data=loader)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"regime": "both"}, "end-to-end"),
        ({"epochs": 0}, "module 1 has 0"),
        ({"epochs": [1, 2]}, "3, but got 2"),
        ({"epochs": lambda k: 1.5}, "1.5"),
        ({"regime": "multi-lap", "epochs": 3, "laps": 2}, "2 does not divide"),
        ({"optimizer": torch.optim.SGD([nn.Parameter(X)], 0.1)}, "got SGD"),
        ({"optimizer": lambda p: None}, "for module 1 it returned NoneType"),
        ({"optimizer": lambda p: torch.optim.LBFGS(p)}, "no closure"),
        ({"criterion": [nn.CrossEntropyLoss()]}, "3, but got 1"),
        ({"criterion": "ce"}, "3, but got 2"),
        ({"criterion": 3}, "got int"),
        ({"transport": Transport([1.0, 2.0])}, "3, but got 2"),
        ({"accumulate": 0}, "accumulate"),
        ({"clip_norm": 0.0}, "clip_norm"),
        ({"autocast": torch.float64}, "bfloat16"),
        ({"evaluate_every": 0}, "evaluate_every"),
        ({"evaluate_every": True}, "evaluate_every"),
        ({"seed": "one"}, "seed"),
        ({"compile": 3}, "compile={'mode'"),
        ({"transport": 0.5}, "transport=trgl.Transport"),
        ({"scheduler": 3}, "scheduler must be a callable.*got int"),
        ({"scheduler": lambda optimizer: None}, "returned NoneType"),
        ({"clip_norm": "1"}, "clip_norm must be a positive number"),
        ({"device": "gpu"}, "got 'gpu'"),
        ({"device": 1.5}, "got 1.5"),
    ],
)
def test_wrong_settings_are_refused_when_the_trainer_is_built(options, message):
    options = {"optimizer": sgd, "epochs": 1} | options
    with pytest.raises(ValueError, match=message):
        Trainer(network(modules=3), **options)


def test_a_transport_cost_without_energies_is_refused():
    layers = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    net = trgl.split(layers, 2, (4,), CLASSES, "linear")
    with pytest.raises(ValueError, match=r"module 1 has no regularized.*energy='module'"):
        Trainer(net, optimizer=sgd, transport=Transport(1.0))
    Trainer(net, optimizer=sgd)


def test_a_frozen_encoder_must_be_calibrated_first():
    model = trgl.models.chain(2, 4, SHAPE[0], kernel_size=3, stride=1)
    net = trgl.split(model, 2, SHAPE, CLASSES, "linear", encoder="stem", freeze_encoder=True)
    trainer = Trainer(net, optimizer=sgd, epochs=1)
    with pytest.raises(ValueError, match=r"network.calibrate"):
        trainer.fit(TRAIN)
    net.calibrate(TRAIN)
    before = state(net.encoder)
    trainer.fit(TRAIN)
    assert not differing(before, state(net.encoder))


def test_nothing_to_train_is_refused():
    net = trgl.split(nn.Sequential(nn.Flatten()), 1, SHAPE, CLASSES, "linear", freeze_head=True)
    with pytest.raises(ValueError, match="no parameter"):
        Trainer(net, optimizer=sgd)


def test_only_a_split_network_can_be_trained():
    with pytest.raises(ValueError, match=r"got Linear.*trgl\.split"):
        Trainer(nn.Linear(2, 2), optimizer=sgd)


def shuffled(data, size=8):
    """Draws its order from PyTorch's global generator."""
    dataset = torch.utils.data.TensorDataset(*(torch.cat(p) for p in zip(*data, strict=True)))
    return torch.utils.data.DataLoader(dataset, size, shuffle=True)


def test_evaluation_never_changes_the_training():
    data = shuffled(FLAT)
    nets = [dropout_network() for _ in range(3)]
    trained(nets[0], data=data, epochs=3)
    trained(nets[1], data=data, test=data, validation=data, epochs=3)
    trained(nets[2], data=data, test=data, epochs=3, evaluate_every=2)
    assert not differing(state(nets[0]), state(nets[1]))
    assert not differing(state(nets[0]), state(nets[2]))
    trainer = Trainer(nets[0], optimizer=sgd)
    generator = torch.get_rng_state()
    trainer.evaluate(data)
    assert torch.equal(torch.get_rng_state(), generator)


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
