"""What the operators accept, said once: the invariant, what came, and the remedy.

The reference, the fake implementations and the Triton engine call these functions; `csrc/checks.h`
says the same in the same words for the compiled engine.
"""

import math

import torch
from torch import Tensor

ACTIVATIONS = ("none", "relu")
TYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def refusal(invariant: str, received: object, remedy: str) -> ValueError:
    """The error for a user's mistake: the rule, what came, and what to do."""
    return ValueError(f"{invariant}; received {received}. {remedy}")


def check_type(op: str, name: str, tensor: Tensor) -> None:
    """One of the floating-point types that the operators compute with."""
    if tensor.dtype not in TYPES:
        raise refusal(
            f"{op}: {name} must be float32, float64, bfloat16 or float16",
            tensor.dtype,
            "Convert it with .float().",
        )


def check_rank(op: str, name: str, tensor: Tensor) -> None:
    """Rank 2 or more."""
    if tensor.dim() < 2:
        raise refusal(
            f"{op}: {name} must have a batch and a feature dimension, [N, C, *]",
            f"shape {tuple(tensor.shape)}",
            "Add the missing dimension with .unsqueeze().",
        )


def check_pair(
    op: str,
    first: Tensor,  # [N, C, *]
    second: Tensor,  # [N, C, *]
    names: tuple[str, str],
) -> None:
    """Two floating-point tensors of one shape, one device and rank 2 or more."""
    check_type(op, names[0], first)
    check_type(op, names[1], second)
    check_rank(op, names[0], first)
    if first.shape != second.shape:
        raise refusal(
            f"{op}: {names[0]} and {names[1]} must have the same shape",
            f"{tuple(first.shape)} and {tuple(second.shape)}",
            "Project or expand one of them before the call.",
        )
    if first.device != second.device:
        raise refusal(
            f"{op}: {names[0]} and {names[1]} must be on the same device",
            f"{first.device} and {second.device}",
            "Move one of them with .to().",
        )


def check_device(
    op: str,
    name: str,
    vector: Tensor,  # [C] or [N]
    tensor: Tensor,  # [N, C, *]
) -> None:
    """A small vector beside the tensor that it belongs to."""
    if vector.device != tensor.device:
        raise refusal(
            f"{op}: {name} must be on the device of the inputs",
            f"{vector.device} beside {tensor.device}",
            "Move it with .to().",
        )


def check_map(
    op: str,
    name: str,
    map: Tensor | None,  # [N, C, *]
    other_name: str,
    other: Tensor,  # [N, C, *]
) -> None:
    """What a backward operator takes for a map of its forward: another one's shape and device."""
    if map is None:
        return
    check_type(op, name, map)
    if map.shape != other.shape:
        raise refusal(
            f"{op}: {name} must have the shape of {other_name}",
            f"{tuple(map.shape)} beside {tuple(other.shape)}",
            "Pass what forward returned or took.",
        )
    check_device(op, name, map, other)


def check_sample_vector(
    op: str,
    name: str,
    vector: Tensor | None,  # [N]
    x: Tensor,  # [N, C, *]
) -> None:
    """One floating-point value per sample, or nothing."""
    if vector is None:
        return
    if vector.shape != x.shape[:1] or not vector.is_floating_point():
        raise refusal(
            f"{op}: {name} must hold one floating-point value per sample, ({x.shape[0]},)",
            f"{vector.dtype} of shape {tuple(vector.shape)}",
            "Samples are the first dimension.",
        )
    check_device(op, name, vector, x)


def check_row_vector(
    op: str,
    name: str,
    vector: Tensor,  # [N, *]
    y: Tensor,  # [N, *, C]
) -> None:
    """One floating-point value per row."""
    if vector.shape != y.shape[:-1] or not vector.is_floating_point():
        raise refusal(
            f"{op}: {name} must hold one floating-point value per row of y",
            f"{vector.dtype} of shape {tuple(vector.shape)} beside {tuple(y.shape)}",
            "Pass what forward returned.",
        )
    check_device(op, name, vector, y)


def check_exponent(op: str, p: float) -> None:
    """The exponent of the energy."""
    if not isinstance(p, int | float):
        raise refusal(
            f"{op}: the exponent p must be an int or a float", repr(p), "Convert it with float()."
        )
    if not 1.0 <= p < math.inf:  # which torch.compile can trace, unlike isfinite
        raise refusal(
            f"{op}: the exponent p must be finite and at least 1",
            p,
            "The transport cost of the paper is p = 2.",
        )


def check_eps(op: str, eps: float) -> None:
    """What a normalization adds to the variance."""
    if not (math.isfinite(eps) and eps >= 0.0):
        raise refusal(
            f"{op}: eps must be finite and not negative",
            eps,
            "PyTorch's default is 1e-5.",
        )


def check_options(
    op: str,
    x: Tensor,  # [N, C, *]
    activation: str,
    keep: Tensor | None,  # [N]
    p: float,
) -> None:
    """The options that every operator with a residue shares."""
    if activation not in ACTIVATIONS:
        raise refusal(
            f"{op}: activation must be one of {', '.join(ACTIVATIONS)}",
            repr(activation),
            "Apply another activation to the output, with activation='none'.",
        )
    check_exponent(op, p)
    if keep is None:
        return
    batch = x.shape[0]
    if keep.shape != (batch,) or not keep.is_floating_point():
        raise refusal(
            f"{op}: keep must hold one floating-point factor per sample, shape ({batch},)",
            f"{keep.dtype} of shape {tuple(keep.shape)}",
            "Draw it with torch.bernoulli(...) / keep_prob, one value per sample.",
        )
    if keep.requires_grad:
        raise refusal(
            f"{op}: keep is a random factor and gets no gradient",
            "a tensor that requires grad",
            "Pass keep.detach().",
        )
    check_device(op, "keep", keep, x)


def scale_dim(
    op: str,
    x: Tensor,  # [N, C, *]
    scale: Tensor,  # [C] or broadcastable with one dimension of x
) -> int:
    """Dimension of `x` along which `scale` varies.

    A vector (C,) belongs to dimension 1 of images (rank 4 and more) and to the last dimension of
    features and tokens (rank 2 and 3); a shape such as (C, 1, 1) is read as broadcasting reads it.
    """
    wide = [i for i, size in enumerate(scale.shape) if size != 1]
    if scale.dim() == 1:
        dim = 1 if x.dim() >= 4 else x.dim() - 1
    else:
        dim = x.dim() - scale.dim() + wide[0] if wide else 1
    fits = 1 <= scale.dim() <= x.dim() and len(wide) <= 1 and scale.is_floating_point()
    if not (fits and dim >= 1 and scale.numel() == x.shape[dim]):
        raise refusal(
            f"{op}: scale must hold one floating-point factor per channel",
            f"{scale.dtype} of shape {tuple(scale.shape)} for x of shape {tuple(x.shape)}",
            "Give a vector (C,), with channels in dimension 1 of rank 4 and more and in the last "
            "dimension of rank 2 and 3, or a broadcastable shape such as (C, 1, 1).",
        )
    check_device(op, "scale", scale, x)
    return dim


def check_channel_vector(
    op: str,
    name: str,
    vector: Tensor | None,  # [C]
    z: Tensor,  # [N, C, *]
) -> None:
    """One floating-point value per channel, or nothing."""
    if vector is None:
        return
    if vector.shape != z.shape[1:2] or not vector.is_floating_point():
        raise refusal(
            f"{op}: {name} must hold one floating-point value per channel, ({z.shape[1]},)",
            f"{vector.dtype} of shape {tuple(vector.shape)}",
            "Channels are dimension 1 of z.",
        )
    check_device(op, name, vector, z)


def check_batch_norm(
    op: str,
    z: Tensor,  # [N, C, *]
    weight: Tensor | None,  # [C]
    bias: Tensor | None,  # [C]
    running_mean: Tensor | None,  # [C]
    running_var: Tensor | None,  # [C]
    training: bool,
    momentum: float,
    eps: float,
) -> None:
    """The parameters and statistics that batch normalization may use."""
    for name, vector in (
        ("weight", weight),
        ("bias", bias),
        ("running_mean", running_mean),
        ("running_var", running_var),
    ):
        check_channel_vector(op, name, vector, z)
    if (running_mean is None) != (running_var is None):
        raise refusal(
            f"{op}: running_mean and running_var must be given together",
            "only one of them",
            "Pass both, or None for both.",
        )
    if not training and running_mean is None:
        raise refusal(
            f"{op}: evaluation needs running statistics",
            "running_mean=None with training=False",
            "Pass them, or use training=True for the statistics of the batch.",
        )
    if training and math.prod(size for d, size in enumerate(z.shape) if d != 1) == 1:
        raise refusal(
            f"{op}: training needs more than one value per channel",
            f"z of shape {tuple(z.shape)}",
            "Use a larger batch, or training=False.",
        )
    if not math.isfinite(momentum):
        raise refusal(
            f"{op}: momentum must be finite",
            momentum,
            "momentum=None is handled by the block, which knows how many batches it has seen.",
        )
    check_eps(op, eps)


def check_feature_vector(
    op: str,
    name: str,
    vector: Tensor | None,  # [C], or with leading dimensions of size 1
    x: Tensor,  # [N, *, C]
    rank: int,
) -> None:
    """One floating-point value per feature of a row, of at most the given rank, or nothing."""
    if vector is None:
        return
    features = x.shape[-1]
    fits = vector.shape[-1:] == (features,) and vector.numel() == features and vector.dim() <= rank
    if not (fits and vector.is_floating_point()):
        raise refusal(
            f"{op}: {name} must hold one floating-point value per feature, ({features},)",
            f"{vector.dtype} of shape {tuple(vector.shape)}",
            "Features are the last dimension of x.",
        )
    check_device(op, name, vector, x)
