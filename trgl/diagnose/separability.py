"""How well a linear classifier separates the classes in given features."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from trgl.diagnose.distances import gram, measurable

_C = 1.0
_MOST_ITERATIONS = 1000
_NOTHING = 1e-10  # eigenvalues below this share of the largest are rounding


@dataclass(frozen=True)
class Separability:
    """A linear probe: logistic regression on features that stay as they are.

    Attributes:
        features: D, how many features a sample has.
        train_samples: on which the probe was fitted.
        test_samples: other ones, on which it was tested.
        train_accuracy: fraction; 1 where the training samples are linearly separable and the weak
            penalty lets the probe do so.
        test_accuracy: fraction.
        train_loss: mean cross-entropy in nats.
        test_loss: mean cross-entropy in nats.
        converged: whether the fit ended before its last iteration.
    """

    features: int
    train_samples: int
    test_samples: int
    train_accuracy: float
    test_accuracy: float
    train_loss: float
    test_loss: float
    converged: bool


def separability(
    train: Tensor,  # [N, *]
    train_labels: Tensor,  # [N]
    test: Tensor,  # [M, *]
    test_labels: Tensor,  # [M]
) -> Separability:
    """Fit a linear classifier to some features, and test it on others.

    min_{W,b} Σ_i crossentropy(W x_i + b, label_i) + ‖W‖² / 2

    The features are centred by the mean of the training samples and divided by one number, so that
    their mean square is 1: scale and rotation do not matter. The best W lies in the span of the
    training samples; where there are fewer of them than features, the same problem is solved there.

    Args:
        train: features, [N, *], floating-point, on any device, as all the others.
        train_labels: int64 [N].
        test: features, [M, *].
        test_labels: int64 [M].

    Raises:
        ValueError: fewer than two classes to train on, no test samples, or features that are not
            finite.

    Source: Z(ρ_k) of NeurIPS 2023, section 2.2, for linear classifiers.
    """
    from sklearn.exceptions import ConvergenceWarning  # slow to import
    from sklearn.linear_model import LogisticRegression

    if len(train_labels.unique()) < 2 or not len(test_labels):
        raise ValueError(
            f"a linear probe needs training samples of at least two classes and test samples, "
            f"received {len(train_labels.unique())} classes and {len(test_labels)} test samples; "
            "take more samples."
        )
    train, test = measurable("the features that a linear probe sees", train, test)
    train_labels, test_labels = train_labels.cpu(), test_labels.cpu()
    fitted, tested = _in_span(train, test)
    probe = LogisticRegression(C=_C, max_iter=_MOST_ITERATIONS)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        probe.fit(fitted.numpy(), train_labels.numpy())
    results = []
    for points, labels in ((fitted, train_labels), (tested, test_labels)):
        log_probabilities = torch.as_tensor(probe.predict_log_proba(points.numpy()))
        # a class that no training sample has gets no probability at all: its loss is infinite
        position = {int(label): place for place, label in enumerate(probe.classes_)}
        places = torch.tensor([position.get(int(label), -1) for label in labels])
        correct = log_probabilities.argmax(1) == places
        own = log_probabilities[torch.arange(len(labels)), places]
        own = torch.where(places < 0, -torch.inf, own)
        results.append((float(correct.double().mean()), -float(own.mean())))
    (train_accuracy, train_loss), (test_accuracy, test_loss) = results
    return Separability(
        features=train[0].numel(),
        train_samples=len(train),
        test_samples=len(test),
        train_accuracy=train_accuracy,
        test_accuracy=test_accuracy,
        train_loss=train_loss,
        test_loss=test_loss,
        converged=not any(issubclass(w.category, ConvergenceWarning) for w in caught),
    )


def _in_span(train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:  # [N, R], [M, R]
    """Normalized coordinates of both in the span of the training samples, R ≤ N and R ≤ D."""
    center = train.double().mean(0)
    inner = gram(train, train, center)
    features = train[0].numel()
    scale = float(inner.diagonal().mean() / features) ** 0.5 or 1.0
    if features <= len(train):
        return tuple(  # type: ignore[return-value]
            ((points.double() - center) / scale).flatten(1) for points in (train, test)
        )
    values, vectors = torch.linalg.eigh(inner)
    kept = values > _NOTHING * values[-1]
    basis = vectors[:, kept] / values[kept].sqrt()
    return inner @ basis / scale, gram(test, train, center) @ basis / scale
