"""The arguments of each operator: one function per operator, made of the checks.

Backward operators are called by autograd. Whoever calls one by hand is told what does not fit: the
kernels read as many values as the shapes promise.
"""

from torch import Tensor

from .checks import (
    check_batch_norm,
    check_channel_vector,
    check_eps,
    check_exponent,
    check_feature_vector,
    check_map,
    check_options,
    check_pair,
    check_rank,
    check_row_vector,
    check_sample_vector,
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


def check_residual_energy_backward(
    grad_y: Tensor | None,  # [N, C, *]
    grad_energy: Tensor | None,  # [N]
    y: Tensor | None,  # [N, C, *], only with a ReLU
    r: Tensor,  # [N, C, *]; the output where x is given
    x: Tensor | None,  # [N, C, *], only where y − x stands for the residue
    scale: Tensor | None,  # [C]
    keep: Tensor | None,  # [N]
    output_mask: list[bool],
) -> None:
    """Arguments of `residual_energy_backward`, and what it can do without r."""
    op = "residual_energy_backward"
    check_type(op, "r", r)
    check_rank(op, "r", r)
    for name, map in (("grad_y", grad_y), ("y", y), ("x", x)):
        check_map(op, name, map, "r", r)
    check_sample_vector(op, "grad_energy", grad_energy, r)
    check_sample_vector(op, "keep", keep, r)
    if x is not None and (y is not None or output_mask[2]):
        raise refusal(
            "residual_energy_backward: y − x is the residue only where no ReLU follows, and it "
            "gives no gradient of scale",
            "x beside a ReLU's output" if y is not None else "x with a gradient of scale wanted",
            "Call residual_energy, and autograd calls this operator.",
        )
    if scale is not None:
        scale_dim("residual_energy", r, scale)


def check_displacement_energy_backward(
    grad_energy: Tensor,  # [N]
    x: Tensor,  # [N, C, *]
    y: Tensor,  # [N, C, *]
) -> None:
    """Arguments of `displacement_energy_backward`."""
    op = "displacement_energy_backward"
    check_pair(op, x, y, ("x", "y"))
    check_sample_vector(op, "grad_energy", grad_energy, x)


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


def check_normalized(
    op: str,
    z: Tensor,  # [N, C, *]
    weight: Tensor | None,  # [C]
    bias: Tensor | None,  # [C]
    mean: Tensor,  # [C]
    rstd: Tensor,  # [C]
) -> None:
    """What normalizes z, as the operators take it that are given BN's two vectors."""
    check_type(op, "z", z)
    check_rank(op, "z", z)
    for name, vector in (("weight", weight), ("bias", bias), ("mean", mean), ("rstd", rstd)):
        check_channel_vector(op, name, vector, z)


def check_batch_norm_residual_energy_backward(
    grad_y: Tensor | None,  # [N, C, *]
    grad_energy: Tensor | None,  # [N]
    z: Tensor,  # [N, C, *]
    y: Tensor | None,  # [N, C, *], only with a ReLU
    weight: Tensor | None,  # [C]
    bias: Tensor | None,  # [C]
    mean: Tensor,  # [C]
    rstd: Tensor,  # [C]
    keep: Tensor | None,  # [N]
) -> None:
    """Arguments of `batch_norm_residual_energy_backward`."""
    op = "batch_norm_residual_energy_backward"
    check_normalized(op, z, weight, bias, mean, rstd)
    check_map(op, "grad_y", grad_y, "z", z)
    check_map(op, "y", y, "z", z)
    check_sample_vector(op, "grad_energy", grad_energy, z)
    check_sample_vector(op, "keep", keep, z)


def check_batch_norm_relu_backward(
    grad_y: Tensor,  # [N, C, *]
    z: Tensor,  # [N, C, *]
    weight: Tensor | None,  # [C]
    bias: Tensor | None,  # [C]
    mean: Tensor,  # [C]
    rstd: Tensor,  # [C]
) -> None:
    """Arguments of `batch_norm_relu_backward`."""
    op = "batch_norm_relu_backward"
    check_normalized(op, z, weight, bias, mean, rstd)
    check_map(op, "grad_y", grad_y, "z", z)


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


def check_residual_energy_layer_norm_backward(
    grad_y: Tensor | None,  # [N, *, C]
    grad_normed: Tensor | None,  # [N, *, C]
    grad_energy: Tensor | None,  # [N]
    y: Tensor,  # [N, *, C]
    r: Tensor | None,  # [N, *, C], for the energy and for scale
    x: Tensor | None,  # [N, *, C], in place of r
    weight: Tensor | None,  # [C]
    bias: Tensor | None,  # [C]
    mean: Tensor,  # [N, *]
    rstd: Tensor,  # [N, *]
    scale: Tensor | None,  # [C]
    keep: Tensor | None,  # [N]
    output_mask: list[bool],
) -> None:
    """Arguments of `residual_energy_layer_norm_backward`, and what it can do without r."""
    op = "residual_energy_layer_norm_backward"
    check_type(op, "y", y)
    check_rank(op, "y", y)
    for name, map in (("grad_y", grad_y), ("grad_normed", grad_normed), ("r", r), ("x", x)):
        check_map(op, name, map, "y", y)
    check_sample_vector(op, "grad_energy", grad_energy, y)
    check_sample_vector(op, "keep", keep, y)
    for name, vector, rank in (("weight", weight, 1), ("bias", bias, 1), ("scale", scale, y.dim())):
        check_feature_vector(op, name, vector, y, rank)
    check_row_vector(op, "mean", mean, y)
    check_row_vector(op, "rstd", rstd, y)
    wants_scale = output_mask[4] and scale is not None
    with_energy = grad_energy is not None and (output_mask[1] or wants_scale)
    if r is None and (wants_scale or (with_energy and x is None)):
        raise refusal(
            f"{op}: the gradient of the energy needs r or x, and that of scale r",
            "neither" if x is None else "x",
            "Call residual_energy_layer_norm, and autograd calls this operator.",
        )
