"""Linear probes on classes that a hyperplane separates, and on classes that none does."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from trgl.diagnose import separability
from trgl.diagnose.separability import _in_span


def blobs(count: int, features: int, apart: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    labels = torch.arange(count) % 3
    noise = torch.randn(count, features, generator=torch.Generator().manual_seed(seed))
    centers = apart * torch.eye(3, features)
    return noise + centers[labels], labels


def test_separable_blobs_are_separated() -> None:
    found = separability(*blobs(60, 5, 30), *blobs(90, 5, 30, seed=1))
    assert (found.train_accuracy, found.test_accuracy) == (1.0, 1.0)
    assert found.test_loss < 0.1
    assert (found.features, found.train_samples, found.test_samples) == (5, 60, 90)
    assert found.converged


def test_an_exclusive_or_is_not() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(400, 2, generator=generator) - 0.5
    labels = (x[:, 0] * x[:, 1] > 0).long()
    found = separability(x[:200], labels[:200], x[200:], labels[200:])
    assert found.train_accuracy < 0.7
    assert found.train_loss > 0.6
    with_product = torch.cat([x, x[:, :1] * x[:, 1:] * 100], 1)
    found = separability(with_product[:200], labels[:200], with_product[200:], labels[200:])
    assert found.test_accuracy > 0.95


def test_noise_is_separable_in_many_dimensions_and_teaches_nothing() -> None:
    x = torch.randn(60, 500, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(60) % 2
    found = separability(x[:30], labels[:30], x[30:], labels[30:])
    assert found.train_accuracy == 1.0
    assert found.test_accuracy < 0.8


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_scale_shift_and_rotation_do_not_matter(scale: float) -> None:
    (x, labels), (test, wanted) = blobs(60, 80, 3), blobs(60, 80, 3, seed=1)
    turn = torch.linalg.qr(torch.randn(80, 80, dtype=torch.float64)).Q
    reference = separability(x, labels, test, wanted)
    moved = [(scale * (points.double() @ turn)) + 5 * scale for points in (x, test)]
    found = separability(moved[0], labels, moved[1], wanted)
    assert found.test_loss == pytest.approx(reference.test_loss, rel=1e-3)
    assert found.test_accuracy == pytest.approx(reference.test_accuracy, abs=0.02)


def test_the_problem_in_the_span_is_the_problem_in_all_features() -> None:
    (x, labels), (test, wanted) = blobs(30, 50, 3), blobs(45, 50, 3, seed=1)
    center = x.double().mean(0)
    scale = float((x - center).square().mean()) ** 0.5
    full = LogisticRegression(C=1.0, tol=1e-8, max_iter=5000)
    full.fit(((x - center) / scale).numpy(), labels.numpy())
    expected = full.predict_log_proba(((test - center) / scale).numpy())
    found = separability(x, labels, test, wanted)
    own = -float(torch.as_tensor(expected)[torch.arange(45), wanted].mean())
    assert found.test_loss == pytest.approx(own, rel=1e-3)
    fitted, tested = _in_span(x, test)
    assert fitted.shape == (30, 29)  # the mean is gone
    assert tested.shape == (45, 29)


def test_a_class_that_was_never_seen_is_never_right() -> None:
    x, labels = blobs(60, 5, 30)
    seen = labels < 2
    found = separability(x[seen], labels[seen], x, labels)
    assert found.test_accuracy == pytest.approx(2 / 3)
    assert found.test_loss == math.inf


def test_too_few_classes_are_refused() -> None:
    x, labels = blobs(60, 5, 30)
    one = labels == 0
    with pytest.raises(ValueError, match="at least two classes and test samples, received 1 class"):
        separability(x[one], labels[one], x, labels)
    with pytest.raises(ValueError, match="0 test samples"):
        separability(x, labels, x[:0], labels[:0])
