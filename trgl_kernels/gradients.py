"""The gradients of the operators in plain PyTorch: one function per backward operator.

With g_u the gradient at the sum u = x + q (the output's gradient where the activation let it pass)
and e_i = Σ_d |q_id|^p, the residue's gradient is

    ∂L/∂q = g_u + ∂L/∂e_i · p |q|^(p-1) sign(q),

and everything else is the chain rule through q = keep·scale·r or q = keep·BN(z). Nothing but the
inputs, the output (for the ReLU's mask, or for q = y − x in place of r) and BN's two vectors is
needed: q is computed again.
`batch_norm_relu` has no shortcut: its mask is that of q, and not even the output is needed.
"""

import torch
from torch import Tensor

from .arguments import (
    check_batch_norm_relu_backward,
    check_batch_norm_residual_energy_backward,
    check_displacement_energy_backward,
    check_residual_energy_backward,
    check_residual_energy_layer_norm_backward,
)
from .checks import scale_dim
from .reference import (
    accumulation_dtype,
    along,
    energy_slope,
    memory_format,
    normalized_residue,
    normalized_rows,
    residue,
)


def grad_sum(
    grad_y: Tensor | None,  # [N, C, *]
    y: Tensor | None,  # [N, C, *], only with a ReLU
    like: Tensor,  # [N, C, *]
) -> Tensor:  # [N, C, *]
    """Gradient at u = x + q; like PyTorch's ReLU it passes wherever y is not ≤ 0."""
    if grad_y is None:
        return torch.zeros_like(like)
    grad = grad_y.to(like.dtype)
    return grad if y is None else torch.where(y <= 0, 0.0, grad)


def output(
    grad: Tensor,  # [N, C, *]
    dtype: torch.dtype,
    layout: torch.memory_format,
    *others: Tensor | None,  # [N, C, *]
) -> Tensor:  # [N, C, *]
    """`grad` as an operator returns it: of a type and layout, and in memory of its own."""
    result = grad.to(dtype).contiguous(memory_format=layout)
    return result.clone() if any(result is other for other in others) else result


def residual_energy_backward(
    grad_y: Tensor | None,  # [N, C, *]
    grad_energy: Tensor | None,  # [N]
    y: Tensor | None,  # [N, C, *], only with a ReLU
    r: Tensor,  # [N, C, *]; the output where x is given
    x: Tensor | None,  # [N, C, *], only where y − x stands for the residue
    scale: Tensor | None,  # [C]
    keep: Tensor | None,  # [N]
    activation: str,
    p: float,
    x_dtype: torch.dtype,
    output_mask: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:  # [N, C, *], [N, C, *], [C]
    """Gradients with respect to x, r and scale; empty where the mask is False.

    With x given, `r` is the output y, and q = keep·scale·r is recovered as y − x.
    """
    check_residual_energy_backward(grad_y, grad_energy, y, r, x, scale, keep, output_mask)
    with torch.autocast(r.device.type, enabled=False):
        wide = torch.float64 in (r.dtype, x_dtype)
        dtype = torch.float64 if wide else torch.float32
        q = residue(r, scale, keep, dtype) if x is None else r.to(dtype) - x.to(dtype)
        grad_u = grad_sum(grad_y, y, q)
        grad_q = grad_u
        if grad_energy is not None:
            grad_q = grad_u + energy_slope(q, grad_energy, p)
        if keep is not None:
            grad_q = grad_q * along(keep, r, 0, dtype)
        layout = memory_format(r)
        grad_x, grad_r, grad_scale = (r.new_empty(0) for _ in range(3))
        if output_mask[0]:
            grad_x = output(grad_u, x_dtype, layout, grad_y)
        if scale is None:
            if output_mask[1]:
                grad_r = output(grad_q, r.dtype, layout, grad_y, grad_x)
            return grad_x, grad_r, grad_scale
        dim = scale_dim("residual_energy", r, scale)
        if output_mask[1]:
            grad_r = output(grad_q * along(scale, r, dim, dtype), r.dtype, layout, grad_y, grad_x)
        if output_mask[2]:
            others = [i for i in range(r.dim()) if i != dim]
            grad_scale = (grad_q * r.to(dtype)).sum(others).reshape(scale.shape).to(scale.dtype)
        return grad_x, grad_r, grad_scale


def batch_norm_residual_energy_backward(
    grad_y: Tensor | None,  # [N, C, *]
    grad_energy: Tensor | None,  # [N]
    z: Tensor,  # [N, C, *]
    y: Tensor | None,  # [N, C, *], only with a ReLU
    weight: Tensor | None,  # [C]
    bias: Tensor | None,  # [C]
    mean: Tensor,  # [C]
    rstd: Tensor,  # [C]
    training: bool,
    activation: str,
    keep: Tensor | None,  # [N]
    p: float,
    x_dtype: torch.dtype,
    output_mask: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # [N, C, *], [N, C, *], [C], [C]
    """Gradients with respect to z, x, weight and bias; empty where the mask is False."""
    check_batch_norm_residual_energy_backward(
        grad_y, grad_energy, z, y, weight, bias, mean, rstd, keep
    )
    with torch.autocast(z.device.type, enabled=False):
        q = normalized_residue(z, mean, rstd, weight, bias, keep)
        grad_u = grad_sum(grad_y, y, q)
        grad_bn = grad_u
        if grad_energy is not None:
            grad_bn = grad_u + energy_slope(q, grad_energy, p)
        if keep is not None:
            grad_bn = grad_bn * along(keep, z, 0, mean.dtype)
        grad_x = z.new_empty(0)
        if output_mask[1]:
            grad_x = output(grad_u, x_dtype, memory_format(z), grad_y)
        wanted = [output_mask[i] for i in (0, 2, 3)]
        grad_z, grad_weight, grad_bias = batch_norm_gradients(
            grad_bn, z, weight, bias, mean, rstd, training, wanted
        )
        return grad_z, grad_x, grad_weight, grad_bias


def batch_norm_gradients(
    grad: Tensor,  # [N, C, *], at BN's output
    z: Tensor,  # [N, C, *]
    weight: Tensor | None,  # [C]
    bias: Tensor | None,  # [C]
    mean: Tensor,  # [C]
    rstd: Tensor,  # [C]
    training: bool,
    output_mask: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:  # [N, C, *], [C], [C]
    """Gradients of batch normalization with respect to z, weight and bias.

    With ẑ = (z − mean)·rstd, g the gradient at BN's output and M = N·S values per channel,
    ∂L/∂z = γ·rstd·(g − Σg/M − ẑ·Σ(g·ẑ)/M) in training and γ·rstd·g in evaluation.
    """
    dtype = mean.dtype
    z_hat = normalized_residue(z, mean, rstd, None, None, None)
    others = [i for i in range(z.dim()) if i != 1]
    sum_g = grad.sum(others)
    sum_gz = (grad * z_hat).sum(others)
    grad_z, grad_weight, grad_bias = (z.new_empty(0) for _ in range(3))
    if output_mask[0]:
        inner = grad
        if training:
            count = max(z.numel() // max(z.shape[1], 1), 1)
            inner = inner - along(sum_g / count, z, 1, dtype)
            inner = inner - z_hat * along(sum_gz / count, z, 1, dtype)
        slope = rstd if weight is None else rstd * weight.to(dtype)
        grad_z = (inner * along(slope, z, 1, dtype)).to(z.dtype)
        grad_z = grad_z.contiguous(memory_format=memory_format(z))
    if output_mask[1] and weight is not None:
        grad_weight = sum_gz.to(weight.dtype)
    if output_mask[2] and bias is not None:
        grad_bias = sum_g.to(bias.dtype)
    return grad_z, grad_weight, grad_bias


def batch_norm_relu_backward(
    grad_y: Tensor,  # [N, C, *]
    z: Tensor,  # [N, C, *]
    weight: Tensor | None,  # [C]
    bias: Tensor | None,  # [C]
    mean: Tensor,  # [C]
    rstd: Tensor,  # [C]
    training: bool,
    output_mask: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:  # [N, C, *], [C], [C]
    """Gradients with respect to z, weight and bias; empty where the mask is False.

    The ReLU's mask is that of its input, which is computed again.
    """
    check_batch_norm_relu_backward(grad_y, z, weight, bias, mean, rstd)
    with torch.autocast(z.device.type, enabled=False):
        u = normalized_residue(z, mean, rstd, weight, bias, None)
        grad = grad_sum(grad_y, u, u)
        return batch_norm_gradients(grad, z, weight, bias, mean, rstd, training, output_mask)


def residual_energy_layer_norm_backward(
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
    p: float,
    x_dtype: torch.dtype,
    r_dtype: torch.dtype,
    output_mask: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # [N, *, C] twice, [C] three times
    """Gradients with respect to x, r, weight, bias and scale; empty where the mask is False.

    With ŷ = (y − mean)·rstd and g the gradient at ŷ, which is γ·grad_normed, the normalization adds
    rstd·(g − mean(g) − ŷ·mean(g·ŷ)) to the gradient of y. The residue is keep·scale·r, or y − x.
    """
    check_residual_energy_layer_norm_backward(
        grad_y,
        grad_normed,
        grad_energy,
        y,
        r,
        x,
        weight,
        bias,
        mean,
        rstd,
        scale,
        keep,
        output_mask,
    )
    with torch.autocast(y.device.type, enabled=False):
        dtype = mean.dtype
        grad_u = grad_sum(grad_y, None, y.to(dtype))
        grads = [y.new_empty(0) for _ in range(5)]
        grad_affine = y_hat = y.new_zeros(y.shape, dtype=dtype)
        if grad_normed is not None:
            grad_affine, y_hat = grad_normed.to(dtype), normalized_rows(y, mean, rstd)
            g = grad_affine if weight is None else grad_affine * weight.to(dtype)
            inner = g - g.mean(-1, keepdim=True) - y_hat * (g * y_hat).mean(-1, keepdim=True)
            grad_u = grad_u + rstd[..., None] * inner
        grad_r = grad_u
        if grad_energy is not None and (output_mask[1] or output_mask[4]):
            q = residue_of(y, r, x, scale, keep, dtype)
            grad_r = grad_u + energy_slope(q, grad_energy, p)
        if keep is not None:
            grad_r = grad_r * along(keep, y, 0, dtype)
        others = list(range(y.dim() - 1))
        if output_mask[0]:
            grads[0] = output(grad_u, x_dtype, torch.contiguous_format, grad_y)
        if output_mask[1]:
            grad = grad_r if scale is None else grad_r * along(scale, y, -1, dtype)
            grads[1] = output(grad, r_dtype, torch.contiguous_format, grad_y, grads[0])
        if output_mask[2] and weight is not None:
            grads[2] = (grad_affine * y_hat).sum(others).to(weight.dtype)
        if output_mask[3] and bias is not None:
            grads[3] = grad_affine.sum(others).to(bias.dtype)
        if output_mask[4] and scale is not None:
            assert r is not None
            grads[4] = (grad_r * r.to(dtype)).sum(others).reshape(scale.shape).to(scale.dtype)
        return grads[0], grads[1], grads[2], grads[3], grads[4]


def residue_of(
    y: Tensor,  # [N, *, C]
    r: Tensor | None,  # [N, *, C]
    x: Tensor | None,  # [N, *, C]
    scale: Tensor | None,  # [C]
    keep: Tensor | None,  # [N]
    dtype: torch.dtype,
) -> Tensor:  # [N, *, C]
    """q = y − x where x was kept, keep·scale·r where r was."""
    if x is not None:
        return y.to(dtype) - x.to(dtype)
    assert r is not None
    return residue(r, scale, keep, dtype, dim=-1)


def displacement_energy_backward(
    grad_energy: Tensor,  # [N]
    x: Tensor,  # [N, C, *]
    y: Tensor,  # [N, C, *]
    p: float,
    output_mask: list[bool],
) -> tuple[Tensor, Tensor]:  # [N, C, *], [N, C, *]
    """Gradients of x and y, each the other's negative; empty where the mask is False."""
    check_displacement_energy_backward(grad_energy, x, y)
    with torch.autocast(x.device.type, enabled=False):
        dtype, layout = accumulation_dtype(x, y), memory_format(x)
        slope = energy_slope(y.to(dtype) - x.to(dtype), grad_energy, p)
        grad_x = output(-slope, x.dtype, layout) if output_mask[0] else x.new_empty(0)
        grad_y = output(slope, y.dtype, layout) if output_mask[1] else x.new_empty(0)
        return grad_x, grad_y
