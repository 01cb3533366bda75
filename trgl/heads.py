"""Auxiliary heads F_k: from a module's features to logits.

A head is built by a callable `(shape, num_classes) -> nn.Module`, where `shape` is that of the
features without the batch. The names in `HEADS` stand for the callables of this file; bind an
option with `functools.partial(trgl.heads.conv, window=8)`.
"""

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from .flat_linear import FlatLinear
from .pooling import GlobalAveragePool, PoolLinear

Shape = tuple[int, ...]
HeadBuilder = Callable[[Shape, int], nn.Module]
Head = str | HeadBuilder


def conv(shape: Shape, num_classes: int, *, window: int | None = None) -> nn.Module:
    """Convolution 3×3 (same channels, no bias), ReLU, average pooling, BN, flatten, linear.

    Args:
        shape: (C, H, W).
        num_classes: width of the logits.
        window: side of the pooling windows, 1 to min(H, W); None pools over all positions.

    Raises:
        ValueError: the features are not maps, or the window is larger than they are.

    Source: TRGL (Karkar et al., NeurIPS 2023), section 4.1, after Belilovsky et al., 2019.
    """
    channels, height, width = _maps(shape, "conv")
    if window is not None and not 1 <= window <= min(height, width):
        raise ValueError(
            f"Head 'conv' pools over windows of 1 to {min(height, width)} pixels on features "
            f"{shape}, but got window={window}. Use a smaller window, or None for all positions."
        )
    pool = GlobalAveragePool() if window is None else nn.AvgPool2d(window)
    cells = 1 if window is None else (height // window) * (width // window)
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        nn.ReLU(inplace=True),
        pool,
        nn.BatchNorm2d(channels),
        nn.Flatten(),
        nn.Linear(channels * cells, num_classes),
    )


def linear(shape: Shape, num_classes: int) -> nn.Module:
    """Flatten and one linear layer.

    Args:
        shape: of the features, any rank.
        num_classes: width of the logits.
    """
    return nn.Sequential(FlatLinear(math.prod(shape), num_classes))


def mlp(shape: Shape, num_classes: int, *, hidden: int | None = None) -> nn.Module:
    """Flatten, linear, BN, ReLU, linear.

    Args:
        shape: of the features, any rank.
        num_classes: width of the logits.
        hidden: width of the hidden layer, ≥ 1; None is 10 × num_classes, as in the papers.

    Raises:
        ValueError: hidden < 1.
    """
    hidden = 10 * num_classes if hidden is None else hidden
    if hidden < 1:
        raise ValueError(
            f"Head 'mlp' needs a hidden layer of at least one unit, but got {hidden}. "
            f"Leave it out for 10 × num_classes."
        )
    return nn.Sequential(
        FlatLinear(math.prod(shape), hidden),
        nn.BatchNorm1d(hidden),
        nn.ReLU(),
        nn.Linear(hidden, num_classes),
    )


def pool_linear(shape: Shape, num_classes: int, *, channels_last: bool | None = None) -> nn.Module:
    """LayerNorm over channels, average over positions, linear: see `PoolLinear`.

    Args:
        shape: (C, H, W) or tokens (T, C); with channels_last (H, W, C).
        num_classes: width of the logits.
        channels_last: the last dimension holds the channels; None: exactly for tokens.

    Raises:
        ValueError: the features have fewer than two dimensions.

    Source: TRGL (Karkar et al., NeurIPS 2023), section 4.1, Swin Transformers.
    """
    if len(shape) < 2:
        raise ValueError(
            f"Head 'pool-linear' needs features with channels and positions, but they are {shape}. "
            f"Use head='linear' or 'mlp'."
        )
    last = len(shape) == 2 if channels_last is None else channels_last
    return PoolLinear(shape[-1] if last else shape[0], num_classes, -1 if last else 1)


def mlp_sr(shape: Shape, num_classes: int) -> nn.Module:
    """Spatial reduction, three 1×1 convolutions, and an MLP of three layers: the MLP-SR head.

    Average pooling to a quarter of each side, three times (1×1 convolution of C channels, BN,
    ReLU), average pooling to 2×2, flatten, twice (linear of the same width, BN, ReLU), linear.

    Args:
        shape: (C, H, W). Sides are rounded up; one of less than 5 pixels is pooled to 1.
        num_classes: width of the logits.

    Raises:
        ValueError: the features are not maps.

    Source: Belilovsky et al., "Decoupled greedy learning of CNNs", ICML 2020, section 5.2.
    """
    channels, height, width = _maps(shape, "mlp-sr")
    quarter = (-(-height // 4), -(-width // 4))
    cells = (min(2, quarter[0]), min(2, quarter[1]))
    layers: list[nn.Module] = [nn.AdaptiveAvgPool2d(quarter)]
    for _ in range(3):
        layers += [nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels)]
        layers.append(nn.ReLU())
    layers += [nn.AdaptiveAvgPool2d(cells), nn.Flatten()]
    features = channels * cells[0] * cells[1]
    for _ in range(2):
        layers += [nn.Linear(features, features), nn.BatchNorm1d(features), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(features, num_classes))


def _maps(shape: Shape, name: str) -> Shape:
    if len(shape) != 3:
        raise ValueError(
            f"Head {name!r} needs feature maps (C, H, W), but the features are {shape}. "
            f"Use head='linear', 'mlp' or 'pool-linear'."
        )
    return shape


HEADS: dict[str, HeadBuilder] = {
    "conv": conv,
    "linear": linear,
    "mlp": mlp,
    "pool-linear": pool_linear,
    "mlp-sr": mlp_sr,
}


def channels_last(head: Head | Sequence[Head]) -> Any:
    """The same heads for feature maps (H, W, C), whose channels come last.

    Args:
        head: for all modules, or a list.

    Raises:
        ValueError: "conv" or "mlp-sr", which have no such form.
    """
    if isinstance(head, Sequence) and not isinstance(head, str):
        return [channels_last(one) for one in head]
    if head in ("conv", "mlp-sr"):
        raise ValueError(
            f"Head {head!r} needs feature maps (C, H, W), but those of a Swin are (H, W, C). Use "
            "head='pool-linear'."
        )
    return functools.partial(pool_linear, channels_last=True) if head == "pool-linear" else head


def build(head: Head, shape: Shape, num_classes: int) -> nn.Module:
    """Builds one head for features of `shape`.

    Args:
        head: a name in `HEADS`, or a callable `(shape, num_classes) -> nn.Module`.
        shape: of the features, without the batch.
        num_classes: width of the logits.

    Raises:
        ValueError: an unknown name, or a callable that does not take these two arguments or does
            not give an `nn.Module`.
    """
    if isinstance(head, str):
        if head not in HEADS:
            raise ValueError(
                f"A head is one of {', '.join(map(repr, HEADS))} or a callable (shape, "
                f"num_classes) -> nn.Module, but got {head!r}."
            )
        head = HEADS[head]
    if not callable(head) or isinstance(head, nn.Module):
        raise ValueError(
            f"A head is a name or a callable (shape, num_classes) -> nn.Module, but got "
            f"{type(head).__name__}. Wrap a module: head=lambda shape, classes: module."
        )
    try:
        inspect.signature(head).bind(shape, num_classes)
    except TypeError as error:
        raise ValueError(
            f"A callable for heads takes (shape, num_classes), but got one that does not: {error}. "
            f"Write head=lambda shape, classes: ..."
        ) from None
    except ValueError:
        pass  # some built-in callables do not tell their signature
    module = head(shape, num_classes)
    if not isinstance(module, nn.Module):
        raise ValueError(
            f"A callable for heads must return an nn.Module, but it returned "
            f"{type(module).__name__} for features {shape}."
        )
    return module


def build_all(
    head: Head | Sequence[Head],
    shapes: Sequence[Shape],
    num_classes: int,
    shared: bool = False,
) -> list[nn.Module]:
    """Builds the heads of K modules.

    Args:
        head: for all modules, or a list of one per module.
        shapes: K feature shapes, without the batch.
        num_classes: width of the logits.
        shared: one head serves all modules; their feature shapes must agree.

    Raises:
        ValueError: as `build`; a list of another length; shapes that a shared head cannot serve.
    """
    several = isinstance(head, Sequence) and not isinstance(head, str)
    if shared:
        if several:
            raise ValueError("A shared head is a single one, but got a list. Give one head.")
        odd = next((k for k, shape in enumerate(shapes, 1) if shape != shapes[0]), None)
        if odd is not None:
            raise ValueError(
                f"One head shared by all modules needs features of one shape, but module 1 gives "
                f"{shapes[0]} and module {odd} gives {shapes[odd - 1]}. Use shared_head=False, or "
                f"an encoder in front, so that all modules keep their shape."
            )
    heads = list(head) if isinstance(head, Sequence) and not isinstance(head, str) else None
    if heads is not None and len(heads) != len(shapes):
        raise ValueError(
            f"A list of heads needs one per module, {len(shapes)}, but got {len(heads)}."
        )
    if shared:
        assert not isinstance(head, Sequence) or isinstance(head, str)
        return [build(head, shapes[0], num_classes)] * len(shapes)
    if heads is None:
        assert not isinstance(head, Sequence) or isinstance(head, str)
        heads = [head] * len(shapes)
    return [build(one, shape, num_classes) for one, shape in zip(heads, shapes, strict=True)]
