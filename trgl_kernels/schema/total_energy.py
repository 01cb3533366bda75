"""Schema, default kernel and fake of the weighted sum of mean energies.

    C = Σ_m w_m · mean_i e_{m,i}

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
    # energies of one size and weight in one go: most have those of their neighbours
    alike: dict[tuple[object, float], list[Tensor]] = {}
    for energy, weight in zip(energies, weights, strict=True):
        alike.setdefault((energy.shape, weight), []).append(energy)
    costs = []
    for (_, weight), group in alike.items():
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
