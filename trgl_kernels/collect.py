"""How energies leave the blocks: a collector around the forward pass.

Inside `with collect_energy() as energies:` each regularized block adds the energy of its residue;
outside, blocks compute no energy at all. Nothing is stored on a block.
"""

import threading
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from .checks import check_exponent, refusal

_Link = tuple[Tensor, int, Any]  # energy [N], D, and the link before it


class EnergyCollector:
    """The energies of the blocks that ran in one scope, in the order in which they ran.

    Args:
        p: exponent of the energies, p ≥ 1; 2 is the kinetic energy of the paper.
    """

    def __init__(self, p: float = 2.0) -> None:
        check_exponent("collect_energy", p)
        self.p = p
        # a chain, newest first: torch.compile guards the length of a list, and would compile a
        # block anew for each of its places in the network
        self._last: _Link | None = None

    def __len__(self) -> int:
        return len(self._links())

    def _links(self) -> "list[_Link]":
        links = []
        link = self._last
        while link is not None:
            links.append(link)
            link = link[2]
        return links[::-1]

    @property
    def energies(self) -> list[Tensor]:  # each [N]
        """The energies, one per residue."""
        return [energy for energy, _, _ in self._links()]

    @property
    def features(self) -> list[int]:
        """D, the values per sample, of each residue."""
        return [features for _, features, _ in self._links()]

    def add(
        self,
        energy: Tensor,  # [N]
        features: int,
    ) -> None:
        """Adds the energy of one residue with `features` = D values per sample."""
        self._last = (energy, features, self._last)

    def total(self, reduction: str = "mean") -> Tensor:  # []
        """C = mean_i Σ_m e_{m,i} / z_m, the transport cost of what ran in the scope.

        Differentiable, and not divided by 2τ; on the device of the last energy. (TRGL, Karkar et
        al., NeurIPS 2023, equation 10.)

        Args:
            reduction: "mean" has z_m = D_m, the number of features of block m: the convention of
                the papers' experiments, without which their τ mean nothing. "sum" has z_m = 1, as
                printed.

        Raises:
            ValueError: no block added an energy, or the reduction is unknown.
        """
        if reduction not in ("mean", "sum"):
            raise refusal(
                "total: reduction must be 'mean' or 'sum'", repr(reduction), "Choose one."
            )
        energies, weights = [], []
        link = self._last
        while link is not None:  # by hand: this is once per module and batch
            energy, features, link = link
            energies.append(energy)
            weights.append(1.0 / (features or 1) if reduction == "mean" else 1.0)
        if not energies:
            raise refusal(
                "total: at least one regularized block must run inside collect_energy(), in the "
                "thread that opened it",
                "no energy",
                "Convert the model with trgl_kernels.regularize(model), and run it in the scope.",
            )
        device = energies[0].device
        if any(energy.device != device for energy in energies):  # a model on several devices
            energies = [energy.to(device) for energy in energies]
        total: Tensor = torch.ops.trgl._total_energy.default(energies[::-1], weights[::-1])
        return total


class _Stack(threading.local):
    """Collectors of this thread, innermost last; None stands for a scope that collects nothing.

    A tuple that is replaced, never changed: this is the form that survives threads, exceptions,
    torch.compile and export alike.
    """

    def __init__(self) -> None:
        # not on the class: torch.compile guards the attribute of an instance, and would take one
        # that appears later for none
        self.collectors: tuple[EnergyCollector | None, ...] = ()


_stack = _Stack()


def current() -> EnergyCollector | None:
    """The innermost collector of this thread, or None."""
    collectors = _stack.collectors
    return collectors[-1] if collectors else None


def open_collectors() -> list[EnergyCollector]:
    """The collectors that are open in this thread, outermost first."""
    return [collector for collector in _stack.collectors if collector is not None]


class _Scope(AbstractContextManager[Any]):
    """Makes a collector, or None, the innermost one of this thread; a class, since it is entered
    once per module and batch and a generator costs three times as much."""

    def __init__(self, collector: EnergyCollector | None) -> None:
        self._collector = collector
        self._outer: list[tuple[EnergyCollector | None, ...]] = []

    def __enter__(self) -> Any:
        before = _stack.collectors
        self._outer.append(before)
        _stack.collectors = (*before, self._collector)
        return self._collector

    def __exit__(self, *_: object) -> None:
        _stack.collectors = self._outer.pop()


def collect_energy(p: float = 2.0) -> AbstractContextManager[EnergyCollector]:
    """Collects the energies of the regularized blocks that run inside it.

    e_{m,i} = Σ_d |r_{m,i,d}|^p for block m and sample i. Scopes nest: a block adds to the
    innermost. `total()` of the collector is the transport cost, also after the scope has closed.

        with collect_energy() as energies:
            features = body(images)
        loss = criterion(head(features), labels) + energies.total() / (2 * tau)

    Args:
        p: exponent, p ≥ 1; 2 is the kinetic energy of the paper.

    Raises:
        ValueError: p < 1.
    """
    return _Scope(EnergyCollector(p))


def no_energy() -> AbstractContextManager[None]:
    """Inside this scope blocks compute no energy, even within `collect_energy()`.

    For layers that are measured as a whole from outside.
    """
    return _Scope(None)


def checkpoint_contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """The `context_fn` under which activation checkpointing counts every energy once.

    A checkpointed block runs twice. The recomputation runs under a collector of its own, which is
    thrown away, so that it computes what the first run computed and adds nothing.

        checkpoint(block, x, use_reentrant=False, context_fn=checkpoint_contexts)

    Reentrant checkpointing (use_reentrant=True) runs the block without a gradient, so that the
    energies it collects have none: it cannot be combined with a penalty.
    """
    collector = current()
    again = None if collector is None else EnergyCollector(collector.p)
    return _Scope(collector), _Scope(again)
