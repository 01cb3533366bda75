"""How energies leave the blocks: a collector around the forward pass.

Inside `with collect_energy() as energies:` each regularized block adds the energy of its residue;
outside, blocks compute no energy at all. Nothing is stored on a block.
"""

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from torch import Tensor

from .checks import refusal


class EnergyCollector:
    """The energies of the blocks that ran in one scope, in the order in which they ran.

    Args:
        p: exponent of the energies, p ≥ 1; 2 is the kinetic energy of the paper.
    """

    def __init__(self, p: float = 2.0) -> None:
        if not 1.0 <= p < float("inf"):
            raise refusal(
                "collect_energy: the exponent p must be finite and at least 1", p, "Use 2."
            )
        self.p = p
        self.energies: list[Tensor] = []  # each [N]
        self.features: list[int] = []  # D of each block

    def __len__(self) -> int:
        return len(self.energies)

    def add(
        self,
        energy: Tensor,  # [N]
        features: int,
    ) -> None:
        """Adds the energy of one residue with `features` = D values per sample."""
        self.energies.append(energy)
        self.features.append(features)

    def total(self, reduction: str = "mean") -> Tensor:  # []
        """C = mean_i Σ_m e_{m,i} / z_m, the transport cost of what ran in the scope.

        Differentiable, and not divided by 2τ. (TRGL, Karkar et al., NeurIPS 2023, equation 10.)

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
        if not self.energies:
            raise refusal(
                "total: at least one regularized block must run inside collect_energy()",
                "no energy",
                "Convert the model with trgl_kernels.regularize(model), and run it in the scope.",
            )
        total: Tensor | None = None
        for energy, features in zip(self.energies, self.features, strict=True):
            cost = energy.mean()
            if reduction == "mean":
                cost = cost / features
            total = cost if total is None else total + cost
        assert total is not None
        return total


class _Stack(threading.local):
    """Collectors of this thread, innermost last; None stands for a scope that collects nothing.

    A tuple that is replaced, never changed: this is the form that survives threads, exceptions,
    torch.compile and export alike.
    """

    collectors: tuple[EnergyCollector | None, ...] = ()


_stack = _Stack()


def current() -> EnergyCollector | None:
    """The innermost collector of this thread, or None."""
    collectors = _stack.collectors
    return collectors[-1] if collectors else None


@contextmanager
def _scope(collector: EnergyCollector | None) -> Iterator[None]:
    before = _stack.collectors
    _stack.collectors = (*before, collector)
    try:
        yield
    finally:
        _stack.collectors = before


@contextmanager
def collect_energy(p: float = 2.0) -> Iterator[EnergyCollector]:
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
    collector = EnergyCollector(p)
    with _scope(collector):
        yield collector


def no_energy() -> AbstractContextManager[None]:
    """Inside this scope blocks compute no energy, even within `collect_energy()`.

    For layers that are measured as a whole from outside.
    """
    return _scope(None)


def checkpoint_contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """The `context_fn` under which activation checkpointing counts every energy once.

    A checkpointed block runs twice. The recomputation runs under a collector of its own, which is
    thrown away, so that it computes what the first run computed and adds nothing.

        checkpoint(block, x, use_reentrant=False, context_fn=checkpoint_contexts)
    """
    collector = current()
    again = None if collector is None else EnergyCollector(collector.p)
    return _scope(collector), _scope(again)
