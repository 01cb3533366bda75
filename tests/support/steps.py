"""Steps of small modules, for the tests of one module's training on one batch."""

import torch
from small import CLASSES
from torch import nn

from trgl.body import Body
from trgl.network import GreedyModule
from trgl.step import LocalStep
from trgl_kernels import RegularizedResidual

CPU = torch.device("cpu")
CRITERION = nn.CrossEntropyLoss()


def plain_sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1)


def residual_module(seed=0):
    """Without batch normalization, so that the samples of a batch do not see one another."""
    torch.manual_seed(seed)
    body = Body([(name, RegularizedResidual(nn.Linear(4, 4))) for name in "ab"])
    return GreedyModule(body, nn.Linear(4, CLASSES))


def local_step(module, optimizer=plain_sgd, **options):
    optimizers = options.pop("optimizers", None) or [optimizer(list(module.parameters()))]
    criterion = options.pop("criterion", CRITERION)
    weights = options.pop("transport", None)
    if weights is not None:
        options.update(weights=weights.start(1), reduction=weights.reduction, p=weights.p, place=1)
    return LocalStep(1, module, criterion, optimizers, CPU, **options)
