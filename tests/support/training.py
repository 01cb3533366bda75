"""Trainings of tiny networks."""

import torch
from small import CLASSES, batches, sgd
from torch import nn

import trgl
from trgl import Trainer

TRAIN = batches(3)


TEST = batches(2, seed=1)


def trained(net, regime="parallel", *, data=TRAIN, test=None, validation=None, **options):
    options.setdefault("epochs", 2)
    options.setdefault("optimizer", sgd)
    trainer = Trainer(net, regime, **options)
    return trainer, trainer.fit(data, test, validation)


FLAT = [(x.flatten(1), y) for x, y in TRAIN]


def halving(optimizer):
    return torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)


X, Y = TRAIN[0]


def dropout_network(seed=0):
    torch.manual_seed(seed)
    blocks = [
        nn.Sequential(nn.Linear(72, 8), nn.Dropout(0.3), nn.ReLU()),
        nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.3)),
        nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.3)),
    ]
    return trgl.split(nn.Sequential(*blocks), 3, (72,), CLASSES, "mlp", seed=seed)
