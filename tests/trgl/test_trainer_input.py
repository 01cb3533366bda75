"""What a trainer takes and refuses: loaders, labels, settings."""

import pytest
import torch
from small import CLASSES, SHAPE, Once, differing, network, sgd, state
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from training import TEST, TRAIN, X, Y, trained

import trgl
from trgl import Trainer, Transport


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
        ([{"image": X, "label": Y}], "a pair of tensors, .* got dict"),
        ([(X, Y, Y)], "got tuple of Tensor, Tensor, Tensor"),
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
        ({"optimizer": lambda p: sgd([*p, nn.Parameter(X)])}, "1 of its 10 are others"),
        ({"criterion": [nn.CrossEntropyLoss()]}, "3, but got 1"),
        ({"criterion": "ce"}, "3, but got 2"),
        ({"criterion": 3}, "got int"),
        ({"criterion": nn.CrossEntropyLoss}, r"Pass an instance: CrossEntropyLoss\(\)"),
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


def test_a_criterion_that_returns_no_tensor_is_refused():
    with pytest.raises(ValueError, match=r"that of module 1 returned a float\. Return the loss"):
        trained(network(modules=1), criterion=lambda logits, labels: 1.0)


def test_a_single_image_is_too_few_for_a_batch_norm():
    whole = (torch.cat([X, X[:1]]), torch.cat([Y, Y[:1]]))
    loader = DataLoader(TensorDataset(*whole), batch_size=len(X))
    with pytest.raises(ValueError, match=r"module 1 got a batch of 1 image.*drop_last=True"):
        trained(network(modules=1, head="conv"), data=loader)


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
