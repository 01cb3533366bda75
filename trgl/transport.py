"""How the transport cost enters a module's loss."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Protocol

import torch
from torch import Tensor


def _is_number(value: object) -> bool:
    """Whether it is a finite real number: Python's or NumPy's, and no truth value."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _positive(name: str, value: float) -> float:
    if not (_is_number(value) and value > 0):
        raise ValueError(
            f"{name} must be a positive finite number, but got {value!r}. For training without "
            f"penalty use transport=None."
        )
    return float(value)


def _check_cost(reduction: str, p: float) -> None:
    if reduction not in ("mean", "sum"):
        raise ValueError(
            f"reduction must be 'mean' (per feature, what published τ refer to) or 'sum', but got "
            f"{reduction!r}."
        )
    if not (_is_number(p) and p >= 1):
        raise ValueError(f"The exponent p must be finite and at least 1, but got {p!r}. Use p=2.")


class Weights(Protocol):
    """The weights of K modules during a run: what turns criterion and cost into an objective."""

    def objective(self, number: int, criterion: Tensor, cost: Tensor, first: bool) -> Tensor:
        """The module's objective, 0-dim; `first` marks the first batch of an optimizer step."""

    def current(self) -> list[float]:
        """1/(2τ_k) or λ_k of the modules 1 to K, read from the device."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up a state."""


@dataclass(frozen=True)
class Transport:
    """A fixed weight for the transport cost C_k of each module.

    L_k = criterion + C_k / (2 τ_k)

    Args:
        tau: τ > 0, for all modules or one per module. Small τ penalizes strongly.
        double: τ for the first ⌊K/2⌋ modules and 2τ for the rest; the encoder does not count.
        reduction: "mean" divides the energy of a block by its number of features, "sum" does not.
        p: exponent of the energy, p ≥ 1.

    Raises:
        ValueError: a value out of its range, or `double` with a τ per module.

    Source: TRGL (Karkar et al., NeurIPS 2023), equation 10; doubling: section 3.3.
    """

    tau: float | Sequence[float] = 0.5
    double: bool = False
    reduction: str = "mean"
    p: float = 2.0

    def __post_init__(self) -> None:
        _check_cost(self.reduction, self.p)
        if isinstance(self.tau, Sequence) and not isinstance(self.tau, str):
            if self.double:
                raise ValueError(
                    "Doubling in the second half needs a single tau, but got one per module. "
                    "Write the doubled values into the list, or give one number."
                )
            object.__setattr__(self, "tau", tuple(_positive("tau", tau) for tau in self.tau))
        else:
            object.__setattr__(self, "tau", _positive("tau", self.tau))

    def taus(self, modules: int) -> tuple[float, ...]:
        """τ_1 … τ_K.

        Args:
            modules: K ≥ 1.

        Raises:
            ValueError: the list of τ has another length than K.
        """
        if isinstance(self.tau, Sequence):
            if len(self.tau) != modules:
                raise ValueError(
                    f"tau needs one value per module, {modules}, but got {len(self.tau)}. Give "
                    f"{modules} values, or a single number for all."
                )
            return tuple(self.tau)
        if not self.double:
            return (float(self.tau),) * modules
        half = modules // 2
        return (float(self.tau),) * half + (2.0 * self.tau,) * (modules - half)

    def start(self, modules: int, device: torch.device | str = "cpu") -> "FixedWeights":
        """The weights of a run over K modules."""
        return FixedWeights(self.taus(modules))


class FixedWeights:
    """1/(2τ_k) of a run; it has no state.

    Args:
        taus: τ_1 … τ_K.
    """

    def __init__(self, taus: Sequence[float]) -> None:
        self._weights = [1.0 / (2.0 * tau) for tau in taus]

    def objective(
        self,
        number: int,
        criterion: Tensor,  # []
        cost: Tensor,  # []
        first: bool = True,
    ) -> Tensor:  # []
        """criterion + cost / (2 τ_k)."""
        return torch.add(criterion, cost, alpha=self._weights[number - 1])

    def current(self) -> list[float]:
        """1/(2τ_k) of the modules 1 to K."""
        return list(self._weights)

    def state_dict(self) -> dict[str, Any]:
        """Empty: nothing changes."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to take up."""


@dataclass(frozen=True)
class Multipliers:
    """The method of multipliers: the weight of the criterion grows with the criterion.

    normalized: L_k = criterion + C_k / λ_k          printed: L_k = λ_k · criterion + C_k
    λ_k ← λ_k + h · criterion    at the iterations s+1, 2s+1, … before λ_k is used

    Both forms have the same minimizer; with the normalized one the learning rate keeps its
    meaning. λ_k stands for 2τ_k. An iteration is an optimizer step of the module: with
    accumulation, λ grows by the criterion of the step's first batch.

    Args:
        initial: λ_1 > 0.
        growth: h ≥ 0.
        every: s ≥ 1 iterations.
        form: "normalized" or "printed".
        reduction: "mean" divides the energy of a block by its number of features, "sum" does not.
        p: exponent of the energy, p ≥ 1.

    Raises:
        ValueError: a value out of its range.

    Source: TRGL (Karkar et al., NeurIPS 2023), appendix D.
    """

    initial: float = 1.0
    growth: float = 1.0
    every: int = 50
    form: str = "normalized"
    reduction: str = "mean"
    p: float = 2.0

    def __post_init__(self) -> None:
        _check_cost(self.reduction, self.p)
        _positive("initial", self.initial)
        if not (_is_number(self.growth) and self.growth >= 0):
            raise ValueError(
                f"growth must be a finite number of at least 0, but got {self.growth!r}. Use 0 for "
                f"a weight that stays."
            )
        whole = isinstance(self.every, int) and not isinstance(self.every, bool)
        if not whole or self.every < 1:
            raise ValueError(
                f"every must be a whole number of iterations, at least 1, but got {self.every!r}. "
                f"Use every=1 to let the weight grow at every iteration."
            )
        if self.form not in ("normalized", "printed"):
            raise ValueError(f"form must be 'normalized' or 'printed', but got {self.form!r}.")

    def start(self, modules: int, device: torch.device | str = "cpu") -> "MultiplierWeights":
        """The weights of a run over K modules, on the device of the run."""
        return MultiplierWeights(self, modules, device)


class MultiplierWeights:
    """λ_k of a run: 0-dim float32 tensors on the device, and the iterations of each module.

    Args:
        rule: the constants.
        modules: K.
        device: of the run.
    """

    def __init__(self, rule: Multipliers, modules: int, device: torch.device | str) -> None:
        self._rule = rule
        self._lambdas = [torch.tensor(float(rule.initial), device=device) for _ in range(modules)]
        self._iterations = [0] * modules

    def objective(
        self,
        number: int,
        criterion: Tensor,  # []
        cost: Tensor,  # []
        first: bool = True,
    ) -> Tensor:  # []
        """criterion + cost/λ_k, or λ_k·criterion + cost, after λ_k has grown when it is time."""
        index, rule = number - 1, self._rule
        if first:
            done = self._iterations[index]
            if done and done % rule.every == 0:
                grown = self._lambdas[index] + rule.growth * criterion.detach()
                self._lambdas[index] = grown.to(self._lambdas[index].dtype)
            self._iterations[index] = done + 1
        weight = self._lambdas[index]
        return criterion + cost / weight if rule.form == "normalized" else weight * criterion + cost

    def current(self) -> list[float]:
        """λ_k of the modules 1 to K."""
        values: list[float] = torch.stack(self._lambdas).tolist()
        return values

    def state_dict(self) -> dict[str, Any]:
        """λ of all modules and their iterations."""
        return {"lambdas": torch.stack(self._lambdas), "iterations": list(self._iterations)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up λ and iterations.

        Raises:
            ValueError: the state is of a run with another number of modules.
        """
        if len(state["iterations"]) != len(self._lambdas):
            raise ValueError(
                f"The state has multipliers of {len(state['iterations'])} modules, but the run has "
                f"{len(self._lambdas)}. Resume with the same split."
            )
        like = self._lambdas[0]
        self._lambdas = [value.clone() for value in state["lambdas"].to(like)]
        self._iterations = list(state["iterations"])
