"""What a run measured, under names that say how it was chosen."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self


@dataclass(frozen=True)
class Evaluation:
    """Accuracy and loss of every module on one data set.

    Args:
        modules: module numbers; 0 is an encoder that trains.
        accuracy: of each, a fraction from 0 to 1.
        loss: of each, the criterion averaged over the samples.
        samples: size of the data set.
    """

    modules: tuple[int, ...]
    accuracy: tuple[float, ...]
    loss: tuple[float, ...]
    samples: int

    def accuracy_of(self, module: int) -> float:
        """Accuracy of the module with this number, a fraction from 0 to 1."""
        return self.accuracy[self.modules.index(module)]

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON can hold them."""
        return asdict(self)


@dataclass(frozen=True)
class EpochRecord:
    """One epoch of a run.

    Args:
        epoch: from 1, over the whole run.
        lap: from 1.
        trained: numbers of the modules that trained in it.
        train_loss: criterion of each of them, or the local loss that takes its place, averaged over
            the samples.
        train_accuracy: of each of them in training mode, a fraction.
        cost: transport cost C_k of each penalized module, averaged over the samples.
        weight: 1/(2τ_k) or λ_k of each penalized module at the end of the epoch.
        learning_rate: of each of them in this epoch, the first parameter group's.
        test: of all modules on the test set, where this epoch was evaluated.
        validation: of all modules on the validation set, where this epoch was evaluated.
        seconds: wall-clock time of the epoch's training, evaluation apart.
        images: that were trained on; 0 in records of older versions.
        memory: the most so far in bytes, of the device, or on the CPU of the process; None in
            records of older versions.
    """

    epoch: int
    lap: int
    trained: tuple[int, ...]
    train_loss: Mapping[int, float]
    train_accuracy: Mapping[int, float]
    cost: Mapping[int, float] = field(default_factory=dict)
    weight: Mapping[int, float] = field(default_factory=dict)
    learning_rate: Mapping[int, float] = field(default_factory=dict)
    test: Evaluation | None = None
    validation: Evaluation | None = None
    seconds: float = 0.0
    images: int = 0
    memory: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON can hold them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """The record of which `as_dict` gave the fields."""
        evaluations = {
            name: None if fields[name] is None else Evaluation(**fields[name])
            for name in ("test", "validation")
        }
        return cls(**{**fields, **evaluations})


@dataclass(frozen=True)
class History:
    """The epochs of a run, in order.

    Args:
        records: one per epoch.
    """

    records: tuple[EpochRecord, ...]

    def _final(self, which: str) -> Evaluation:
        evaluation = getattr(self.records[-1], which) if self.records else None
        if not isinstance(evaluation, Evaluation):
            raise ValueError(
                f"This figure needs an evaluation on the {which} set at the last epoch, but there "
                f"is none. Pass a {which} loader to Trainer.fit."
            )
        return evaluation

    @property
    def final(self) -> Evaluation:
        """All modules on the test set at the last epoch.

        Raises:
            ValueError: the run had no test set.
        """
        return self._final("test")

    def by_depth(self) -> dict[int, float]:
        """Test accuracy of every module at the last epoch, by module number."""
        return dict(zip(self.final.modules, self.final.accuracy, strict=True))

    def last_module(self) -> float:
        """Test accuracy of the last module at the last epoch: nothing was chosen."""
        return self.final.accuracy[-1]

    def best_module(self) -> tuple[int, float]:
        """The module with the best validation accuracy at the last epoch, and its test accuracy.

        Among equals the shallowest is chosen. An encoder, module 0, is not eligible.

        Raises:
            ValueError: the run had no validation or no test set.
        """
        validation = self._final("validation")
        module = max(
            (number for number in validation.modules if number > 0),
            key=lambda number: (validation.accuracy_of(number), -number),
        )
        return module, self.final.accuracy_of(module)

    def optimistic_maximum(self, last: bool = False) -> float:
        """Maximum over epochs and modules of the test accuracy.

        It is chosen on the test set itself, and therefore too high: what the papers' scripts
        printed, kept to be compared with them.

        Args:
            last: over epochs only, of the last module.

        Raises:
            ValueError: the run had no test set.
        """
        tests = [self.final, *(record.test for record in self.records if record.test is not None)]
        deepest = max(self.final.modules)
        return max(
            accuracy
            for test in tests
            for module, accuracy in zip(test.modules, test.accuracy, strict=True)
            if module == deepest or (module > 0 and not last)
        )

    def as_dict(self) -> dict[str, Any]:
        """The records as JSON can hold them."""
        return {"records": [record.as_dict() for record in self.records]}


@dataclass(frozen=True)
class Interval:
    """A mean over seeds and its two-sided Student-t interval, mean ± half_width.

    Args:
        mean: of the values.
        half_width: NaN for a single value, which says nothing about spread.
        count: how many values.
        confidence: between 0 and 1.
    """

    mean: float
    half_width: float
    count: int
    confidence: float

    @property
    def low(self) -> float:
        """Lower end."""
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        """Upper end."""
        return self.mean + self.half_width


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Mean and Student-t interval of a figure over seeds.

    x̄ ± t_{n−1, (1+confidence)/2} · s / √n,  s² = Σ (x − x̄)² / (n − 1)

    Args:
        values: one per seed.
        confidence: between 0 and 1.

    Raises:
        ValueError: no values, or a confidence out of range.
    """
    if not values:
        raise ValueError("An interval needs at least one value, but got none. Run some seeds.")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, but got {confidence!r}. Use 0.95.")
    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return Interval(mean, math.nan, 1, confidence)
    deviation = math.sqrt(math.fsum((x - mean) ** 2 for x in values) / (n - 1))
    half_width = student_t(confidence, n - 1) * deviation / math.sqrt(n)
    return Interval(mean, half_width, n, confidence)


def paired_interval(a: Sequence[float], b: Sequence[float], confidence: float = 0.95) -> Interval:
    """Interval of the mean of a_i − b_i over seeds i that both runs share.

    Args:
        a: one value per seed.
        b: the same seeds in the same order.
        confidence: between 0 and 1.

    Raises:
        ValueError: the lengths differ, or as `mean_interval`.
    """
    if len(a) != len(b):
        raise ValueError(
            f"Paired differences need the same seeds on both sides, but got {len(a)} and {len(b)} "
            f"values. Run the missing seeds."
        )
    return mean_interval([x - y for x, y in zip(a, b, strict=True)], confidence)


def student_t(confidence: float, freedom: int) -> float:
    """t with P(|T| ≤ t) = confidence for Student's distribution with `freedom` ≥ 1 degrees."""
    low, high = 0.0, 1.0
    while _central_probability(high, freedom) < confidence:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if _central_probability(middle, freedom) < confidence:
            low = middle
        else:
            high = middle
    return high


def _central_probability(t: float, freedom: int) -> float:
    """P(|T| ≤ t), the finite sums of Abramowitz and Stegun 26.7.3 and 26.7.4."""
    angle = math.atan(t / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term = cosine if odd else 1.0
    total = term if freedom > 1 else 0.0
    for k in range(2 + odd, freedom - 1, 2):
        term *= cosine * cosine * (k - 1) / k
        total += term
    return 2 / math.pi * (angle + sine * total) if odd else sine * total
