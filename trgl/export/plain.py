"""The operators of ``trgl_kernels`` in an exported program, replaced by PyTorch's own.

A program that holds them runs only where ``trgl_kernels`` is installed. In evaluation mode each is
a few ordinary operations, whose mathematics is the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.nn import functional

from trgl_kernels import reference


def plain_program(
    model: nn.Module,
    images: Tensor,  # [N, *]
) -> ExportedProgram:
    """Export a model as a program of PyTorch's own operators, for batches of any size.

    Args:
        model: in evaluation mode.
        images: an example, N ≥ 2.

    Raises:
        ValueError: the model has an operator that has no ordinary form outside of training.
    """
    shapes = ({0: Dim("batch")},)
    with torch.no_grad():
        traced = torch.export.export(model, (images,), dynamic_shapes=shapes).module()
        assert isinstance(traced, torch.fx.GraphModule)
        # replaced before anything is decomposed: those that declare running statistics as mutable
        # would be wrapped by then
        table = _table()
        for node in traced.graph.nodes:
            if node.op == "call_function":
                node.target = table.get(node.target, node.target)
        traced.recompile()
        program = torch.export.export(traced, (images,), dynamic_shapes=shapes)
    left = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    ours = sorted(name for name in left if name.startswith("trgl."))
    if ours:
        raise ValueError(
            f"a program that runs without trgl cannot hold its operators, but {', '.join(ours)} "
            "has no ordinary form in evaluation mode; export the state-dict instead."
        )
    return program


def _table() -> dict[Any, Callable[..., Any]]:
    operators = torch.ops.trgl
    return {
        operators.batch_norm_residual_energy.default: _batch_norm_residual_energy,
        operators.batch_norm_relu.default: _batch_norm_relu,
        operators._batch_norm_relu_convolution.default: _convolution,
        operators.residual_energy.default: _residual_energy,
        operators.residual_energy_layer_norm.default: _residual_energy_layer_norm,
    }


def _normalized(
    z: Tensor,  # [N, C, *]
    weight: Tensor | None,  # [C]
    bias: Tensor | None,  # [C]
    running_mean: Tensor | None,  # [C]
    running_var: Tensor | None,  # [C]
    training: bool,
    eps: float,
) -> tuple[Tensor, Tensor]:  # [N, C, *], [C]
    """BN, and what stands for the statistics that only a backward pass would read."""
    # a BN without running statistics uses the batch's in evaluation too
    batch = training or running_mean is None
    mean, var = (None, None) if batch else (running_mean, running_var)
    return functional.batch_norm(z, mean, var, weight, bias, batch, 0.0, eps), z.new_empty(
        z.shape[1]
    )


def _batch_norm_residual_energy(
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
    with_energy: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    q, unused = _normalized(z, weight, bias, running_mean, running_var, training, eps)
    u = x + reference.residue(q, None, keep, q.dtype)
    return u.relu() if activation == "relu" else u, z.new_empty(0), unused, unused


def _batch_norm_relu(
    z: Tensor,  # [N, C, *]
    weight: Tensor | None,  # [C]
    bias: Tensor | None,  # [C]
    running_mean: Tensor | None,  # [C]
    running_var: Tensor | None,  # [C]
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    y, unused = _normalized(z, weight, bias, running_mean, running_var, training, eps)
    return y.relu(), unused, unused


def _convolution(
    z: Tensor,  # [N, C, H, W]
    bn_weight: Tensor | None,  # [C]
    bn_bias: Tensor | None,  # [C]
    mean: Tensor,  # [C]
    rstd: Tensor,  # [C]
    active: Tensor,  # [N, C, H, W]
    weight: Tensor,  # [C', C / groups, kH, kW]
    bias: Tensor | None,  # [C']
    training: bool,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    return torch.conv2d(active, weight, bias, stride, padding, dilation, groups)


def _residual_energy(
    x: Tensor,  # [N, C, *]
    r: Tensor,  # [N, C, *]
    activation: str,
    scale: Tensor | None,  # [C]
    keep: Tensor | None,  # [N]
    p: float,
    with_energy: bool,
    recover: bool,
) -> tuple[Tensor, Tensor]:
    u = x + reference.residue(r, scale, keep, r.dtype)
    return u.relu() if activation == "relu" else u, x.new_empty(0)


def _residual_energy_layer_norm(
    x: Tensor,  # [N, *, C]
    r: Tensor,  # [N, *, C]
    weight: Tensor | None,  # [C]
    bias: Tensor | None,  # [C]
    eps: float,
    scale: Tensor | None,  # [C]
    keep: Tensor | None,  # [N]
    p: float,
    with_energy: bool,
    recover: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    y = x + reference.residue(r, scale, keep, r.dtype, dim=-1)
    normed = functional.layer_norm(y, (y.shape[-1],), weight, bias, eps)
    unused = y.new_empty(y.shape[:-1])
    return y, normed, y.new_empty(0), unused, unused
