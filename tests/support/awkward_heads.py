"""Heads that draw, count, or change their weights, for the tests of heads that run twice."""

import torch
from small import CLASSES
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

import trgl
from trgl.body import Body
from trgl.network import GreedyModule
from trgl_kernels import RegularizedPreActBlock


def with_dropout(shape, classes):
    return nn.Sequential(nn.Dropout(0.3), *trgl.heads.conv(shape, classes), nn.Dropout(0.2))


def cumulative(shape, classes):
    head = trgl.heads.conv(shape, classes)
    head[3].momentum = None
    return head


class Counting(nn.Module):
    """A head whose buffer changes with every pass, and shapes what it computes."""

    def __init__(self, shape, classes):
        super().__init__()
        self.inner = trgl.heads.conv(shape, classes)
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, x):
        self.passes += 1
        return self.inner(x * (1 + 0.1 * self.passes))


def spectral(shape, classes):
    return nn.Sequential(nn.Flatten(), spectral_norm(nn.Linear(shape[0] * 36, classes)))


def with_block(shape, classes):
    return nn.Sequential(
        RegularizedPreActBlock(shape[0], shape[0]), trgl.heads.conv(shape, classes)
    )


def module(head, recompute_head, seed=0):
    torch.manual_seed(seed)
    body = Body([("block", RegularizedPreActBlock(4, 4))])
    return GreedyModule(body, head((4, 6, 6), CLASSES), recompute_head=recompute_head)
