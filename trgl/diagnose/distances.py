"""Inner products and distances of many features in float64, a few columns at a time.

All is computed on the CPU, to which ``measurable`` brings the features.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

_COLUMNS = 4096
_PAIRS = 1024
_SAMPLES = 64
_CLOSE = 1e-8  # of the squared norms: below, ‖x‖² + ‖y‖² − 2⟨x, y⟩ keeps less than 7 digits


def measurable(
    what: str,
    *features: Tensor,  # [N, *]
) -> tuple[Tensor, ...]:  # [N, *]
    """The features on the CPU, where measurements are made, if all of them are finite numbers.

    Args:
        what: whose features they are, in words; the start of the message.
        features: [N, *], of any floating-point type, on any device.

    Raises:
        ValueError: values that are not finite.
    """
    # a few samples at a time: the check would take as much memory again as the features
    if not all(bool(torch.isfinite(part).all()) for x in features for part in x.split(_SAMPLES)):
        raise ValueError(
            f"{what} must be finite, received NaN or infinity; the network has diverged, or its "
            "images were no numbers: diagnose an earlier state of it, or take other images."
        )
    return tuple(x.cpu() for x in features)


def gram(
    x: Tensor,  # [N, *]
    y: Tensor,  # [M, *]
    center: Tensor | None = None,  # [*]
) -> Tensor:  # [N, M]
    """Inner products ⟨x_i − center, y_j − center⟩.

    Args:
        x: [N, *], of any floating-point type.
        y: [M, *].
        center: what is subtracted from both, [*]; None subtracts nothing.

    Returns:
        float64 [N, M].
    """
    total = torch.zeros(len(x), len(y), dtype=torch.float64)
    for a, b in _columns(x, y, center):
        total += a @ b.T
    return total


def squared_distances(
    x: Tensor,  # [N, *]
    y: Tensor,  # [M, *]
) -> Tensor:  # [N, M]
    """Squared distances ‖x_i − y_j‖².

    Args:
        x: [N, *], of any floating-point type.
        y: [M, *].

    Returns:
        float64 [N, M], with a relative error below 1e-6 also where points nearly coincide.
    """
    center = x.double().mean(0)
    norms_x = torch.zeros(len(x), dtype=torch.float64)
    norms_y = torch.zeros(len(y), dtype=torch.float64)
    products = torch.zeros(len(x), len(y), dtype=torch.float64)
    for a, b in _columns(x, y, center):
        norms_x += a.square().sum(1)
        norms_y += b.square().sum(1)
        products += a @ b.T
    scale = norms_x.unsqueeze(1) + norms_y
    distances = scale - 2 * products
    close = torch.nonzero(distances <= _CLOSE * scale)
    for pairs in close.split(_PAIRS):
        first, second = pairs.unbind(1)
        direct = torch.zeros(len(pairs), dtype=torch.float64)
        for a, b in _columns(x[first], y[second], None):
            direct += (a - b).square().sum(1)
        distances[first, second] = direct
    return distances


def _columns(x: Tensor, y: Tensor, center: Tensor | None) -> Iterator[tuple[Tensor, Tensor]]:
    x, y = x.flatten(1), y.flatten(1)
    middle = None if center is None else center.double().flatten()
    for start in range(0, x.shape[1], _COLUMNS):
        here = slice(start, start + _COLUMNS)
        a, b = x[:, here].double(), y[:, here].double()
        yield (a, b) if middle is None else (a - middle[here], b - middle[here])
