"""Schemas, default kernels and fakes of the weighted sum of mean energies and of its gradients.

    C = Σ_m w_m · mean_i e_{m,i},   ∂L/∂e_{m,i} = ∂L/∂C · w_m / N_m

Internal: `EnergyCollector.total` calls it. One operator, because the means and sums of a few
numbers that it replaces cost as much as the rest of a small block.
"""

import functools

import torch
from torch import Tensor

from .define import define


def total_energy(
    energies: list[Tensor],  # each [N]
    weights: list[float],
) -> Tensor:  # []
    """C, which autograd can differentiate."""
    # neighbours of one size and weight in one go: most blocks have those of the block before
    groups: list[tuple[float, list[Tensor]]] = []
    for energy, weight in zip(energies, weights, strict=True):
        if groups and groups[-1][0] == weight and groups[-1][1][0].shape == energy.shape:
            groups[-1][1].append(energy)
        else:
            groups.append((weight, [energy]))
    costs = []
    for weight, group in groups:
        together = group[0] if len(group) == 1 else torch.stack(group).sum(0)
        costs.append(together.mean() * weight)
    return functools.reduce(torch.add, costs)


def _fake(
    energies: list[Tensor],  # each [N]
    weights: list[float],
) -> Tensor:  # []
    dtype = max((e.dtype for e in energies), key=lambda t: t.itemsize)
    return energies[0].new_empty((), dtype=dtype)


define("_total_energy(Tensor[] energies, float[] weights) -> Tensor", total_energy, _fake)


def total_energy_backward(
    grad: Tensor,  # []
    sizes: list[int],
    weights: list[float],
) -> list[Tensor]:  # each [N]
    """The gradients of the energies, given how many samples each has."""
    return [
        (grad * (weight / max(size, 1))).expand(size).contiguous()
        for size, weight in zip(sizes, weights, strict=True)
    ]


def _fake_backward(
    grad: Tensor,  # []
    sizes: list[int],
    weights: list[float],
) -> list[Tensor]:  # each [N]
    return [grad.new_empty(size) for size in sizes]


define(
    "_total_energy_backward(Tensor grad, SymInt[] sizes, float[] weights) -> Tensor[]",
    total_energy_backward,
    _fake_backward,
)
