"""The arguments of each operator: one function per operator, made of the checks."""

from torch import Tensor

from .checks import (
    check_batch_norm,
    check_eps,
    check_exponent,
    check_feature_vector,
    check_options,
    check_pair,
    check_rank,
    check_type,
    refusal,
    scale_dim,
)


def check_residual_energy(
    x: Tensor,  # [N, C, *]
    r: Tensor,  # [N, C, *]
    activation: str,
    scale: Tensor | None,  # [C]
    keep: Tensor | None,  # [N]
    p: float,
) -> None:
    """Arguments of `residual_energy`."""
    check_pair("residual_energy", x, r, ("x", "r"))
    check_options("residual_energy", x, activation, keep, p)
    if scale is not None:
        scale_dim("residual_energy", x, scale)


def check_displacement_energy(
    x: Tensor,  # [N, C, *]
    y: Tensor,  # [N, C, *]
    p: float,
) -> None:
    """Arguments of `displacement_energy`."""
    check_pair("displacement_energy", x, y, ("x", "y"))
    check_exponent("displacement_energy", p)


def check_recovery(
    y: Tensor | None,  # [N, C, *], only with a ReLU
    x: Tensor | None,  # [N, C, *], only where y − x stands for the residue
    output_mask: list[bool],
) -> None:
    """What `residual_energy_backward` can do without r."""
    if x is not None and (y is not None or output_mask[2]):
        raise refusal(
            "residual_energy_backward: y − x is the residue only where no ReLU follows, and it "
            "gives no gradient of scale",
            "x beside a ReLU's output" if y is not None else "x with a gradient of scale wanted",
            "Call residual_energy, and autograd calls this operator.",
        )


def check_batch_norm_residual_energy(
    z: Tensor,  # [N, C, *]
    x: Tensor,  # [N, C, *]
    weight: Tensor | None,  # [C]
    bias: Tensor | None,  # [C]
    running_mean: Tensor | None,  # [C]
    running_var: Tensor | None,  # [C]
    training: bool,
    momentum: float,
    eps: float,
    activation: str,
    keep: Tensor | None,  # [N]
    p: float,
) -> None:
    """Arguments of `batch_norm_residual_energy`."""
    op = "batch_norm_residual_energy"
    check_pair(op, z, x, ("z", "x"))
    check_options(op, z, activation, keep, p)
    check_batch_norm(op, z, weight, bias, running_mean, running_var, training, momentum, eps)


def check_batch_norm_relu(
    z: Tensor,  # [N, C, *]
    weight: Tensor | None,  # [C]
    bias: Tensor | None,  # [C]
    running_mean: Tensor | None,  # [C]
    running_var: Tensor | None,  # [C]
    training: bool,
    momentum: float,
    eps: float,
) -> None:
    """Arguments of `batch_norm_relu`."""
    op = "batch_norm_relu"
    check_type(op, "z", z)
    check_rank(op, "z", z)
    check_batch_norm(op, z, weight, bias, running_mean, running_var, training, momentum, eps)


def check_residual_energy_layer_norm(
    x: Tensor,  # [N, *, C]
    r: Tensor,  # [N, *, C]
    weight: Tensor | None,  # [C]
    bias: Tensor | None,  # [C]
    eps: float,
    scale: Tensor | None,  # [C]
    keep: Tensor | None,  # [N]
    p: float,
) -> None:
    """Arguments of `residual_energy_layer_norm`."""
    op = "residual_energy_layer_norm"
    check_pair(op, x, r, ("x", "r"))
    check_options(op, x, "none", keep, p)
    check_eps(op, eps)
    for name, vector, rank in (
        ("weight", weight, 1),
        ("bias", bias, 1),
        ("scale", scale, x.dim()),  # its leading dimensions may be of size 1
    ):
        check_feature_vector(op, name, vector, x, rank)
