"""Every operator in plain PyTorch: the definition that the engines are held against.

The function of an operator reads like its formula and takes the arguments of the public function of
its name; `with_energy=False` beside them leaves the energy out, as an empty tensor. It returns what
the registered operator returns: the public outputs and then, where it normalizes, mean and rstd.
The gradients are written out in gradients.py, since one backward operator per operator holds its
mathematics; the tests compare them with what autograd makes of the definitions.

Letters: N batch, C channels, D features per sample. Sums run in float32 (float64 for float64
inputs), whatever the type of the inputs.
"""

import torch
from torch import Tensor

from .arguments import (
    check_batch_norm_relu,
    check_batch_norm_residual_energy,
    check_displacement_energy,
    check_normalized,
    check_residual_energy,
    check_residual_energy_layer_norm,
)
from .checks import scale_dim


def accumulation_dtype(*tensors: Tensor) -> torch.dtype:
    """float64 where an input is float64, float32 otherwise."""
    wide = any(t.dtype == torch.float64 for t in tensors)
    return torch.float64 if wide else torch.float32


def memory_format(tensor: Tensor) -> torch.memory_format:
    """Layout of an output that follows `tensor`: channels_last where it is so, else contiguous."""
    if tensor.is_contiguous():
        return torch.contiguous_format
    if tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    if tensor.dim() == 5 and tensor.is_contiguous(memory_format=torch.channels_last_3d):
        return torch.channels_last_3d
    return torch.contiguous_format


def along(
    vector: Tensor,  # C values
    x: Tensor,  # [N, C, *]
    dim: int,
    dtype: torch.dtype,
) -> Tensor:  # [1, C, 1, ...]
    """`vector` laid along dimension `dim` of `x`, ready to broadcast."""
    shape = [1] * x.dim()
    shape[dim] = -1
    return vector.to(dtype).reshape(shape)


def energy_of(
    q: Tensor,  # [N, *]
    p: float,
) -> Tensor:  # [N]
    """e_i = Σ_d |q_id|^p."""
    powers = q * q if p == 2.0 else q.abs().pow(p)
    return powers.flatten(1).sum(1)


def energy_slope(
    q: Tensor,  # [N, *]
    grad_energy: Tensor,  # [N]
    p: float,
) -> Tensor:  # [N, *]
    """∂L/∂e_i · p |q|^(p-1) sign(q), which is 0 at q = 0."""
    weight = along(grad_energy, q, 0, q.dtype)
    if p == 2.0:
        return 2.0 * weight * q
    return weight * p * q.abs().pow(p - 1.0) * q.sign()


def residual_energy(
    x: Tensor,  # [N, C, *]
    r: Tensor,  # [N, C, *]
    *,
    activation: str = "none",
    scale: Tensor | None = None,  # [C]
    keep: Tensor | None = None,  # [N]
    p: float = 2.0,
    with_energy: bool = True,
) -> tuple[Tensor, Tensor]:  # [N, C, *], [N]
    """y = act(x + keep·scale·r) and e_i = Σ_d |keep·scale·r|^p."""
    check_residual_energy(x, r, activation, scale, keep, p)
    with torch.autocast(x.device.type, enabled=False):
        dtype = accumulation_dtype(x, r)
        q = residue(r, scale, keep, dtype)
        u = x.to(dtype) + q
        y = u.relu() if activation == "relu" else u
        y = y.to(torch.promote_types(x.dtype, r.dtype))
        energy = energy_of(q, p) if with_energy else q.new_empty(0)
        return y.contiguous(memory_format=memory_format(x)), energy


def residue(
    r: Tensor,  # [N, C, *]
    scale: Tensor | None,  # [C]
    keep: Tensor | None,  # [N]
    dtype: torch.dtype,
    dim: int | None = None,
) -> Tensor:  # [N, C, *]
    """q = keep·scale·r, what enters the addition; `scale` lies along `dim`."""
    q = r.to(dtype)
    if scale is not None:
        dim = scale_dim("residual_energy", r, scale) if dim is None else dim
        q = q * along(scale, r, dim, dtype)
    if keep is not None:
        q = q * along(keep, r, 0, dtype)
    return q


def batch_norm_residual_energy(
    z: Tensor,  # [N, C, *]
    x: Tensor,  # [N, C, *]
    weight: Tensor | None,  # [C]
    bias: Tensor | None,  # [C]
    running_mean: Tensor | None,  # [C]
    running_var: Tensor | None,  # [C]
    *,
    training: bool,
    momentum: float = 0.1,
    eps: float = 1e-5,
    activation: str = "relu",
    keep: Tensor | None = None,  # [N]
    p: float = 2.0,
    with_energy: bool = True,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # [N, C, *], [N], [C], [C]
    """q = keep·BN(z), y = act(x + q), e_i = Σ_d |q|^p, with the mean and rstd that BN used."""
    check_batch_norm_residual_energy(
        z, x, weight, bias, running_mean, running_var, training, momentum, eps, activation, keep, p
    )
    with torch.autocast(z.device.type, enabled=False):
        dtype = accumulation_dtype(z, x)
        mean, var = statistics(z, running_mean, running_var, training, momentum, dtype)
        rstd = (var + eps).rsqrt()
        q = normalized_residue(z, mean, rstd, weight, bias, keep)
        u = x.to(dtype) + q
        y = u.relu() if activation == "relu" else u
        y = y.to(torch.promote_types(z.dtype, x.dtype))
        energy = energy_of(q, p) if with_energy else q.new_empty(0)
        return y.contiguous(memory_format=memory_format(z)), energy, mean, rstd


def batch_norm_relu(
    z: Tensor,  # [N, C, *]
    weight: Tensor | None,  # [C]
    bias: Tensor | None,  # [C]
    running_mean: Tensor | None,  # [C]
    running_var: Tensor | None,  # [C]
    *,
    training: bool,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor, Tensor]:  # [N, C, *], [C], [C]
    """y = max(BN(z), 0), with the mean and rstd that BN used."""
    check_batch_norm_relu(z, weight, bias, running_mean, running_var, training, momentum, eps)
    with torch.autocast(z.device.type, enabled=False):
        dtype = accumulation_dtype(z)
        mean, var = statistics(z, running_mean, running_var, training, momentum, dtype)
        rstd = (var + eps).rsqrt()
        return batch_norm_relu_apply(z, weight, bias, mean, rstd), mean, rstd


def batch_norm_relu_apply(
    z: Tensor,  # [N, C, *]
    weight: Tensor | None,  # [C]
    bias: Tensor | None,  # [C]
    mean: Tensor,  # [C]
    rstd: Tensor,  # [C]
) -> Tensor:  # [N, C, *]
    """y = max(γ·(z − mean)·rstd + β, 0): the output again, from what its forward returned."""
    check_normalized("batch_norm_relu_apply", z, weight, bias, mean, rstd)
    with torch.autocast(z.device.type, enabled=False):
        y = normalized_residue(z, mean, rstd, weight, bias, None).relu().to(z.dtype)
        return y.contiguous(memory_format=memory_format(z))


def statistics(
    z: Tensor,  # [N, C, *]
    running_mean: Tensor | None,  # [C]
    running_var: Tensor | None,  # [C]
    training: bool,
    momentum: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:  # [C], [C]
    """Mean and biased variance per channel that BN normalizes with; updates the running ones."""
    if not training:
        assert running_mean is not None
        assert running_var is not None
        # a copy: what backward reads must not move when the running statistics do
        return running_mean.to(dtype, copy=True), running_var.to(dtype, copy=True)
    if z.numel() == 0:
        return z.new_zeros(z.shape[1], dtype=dtype), z.new_ones(z.shape[1], dtype=dtype)
    columns = z.to(dtype).transpose(0, 1).flatten(1)
    mean = columns.mean(1)
    lost = (columns - mean[:, None]).mean(1)  # by the first sum, far from 0
    mean = mean + torch.where(mean.isfinite(), lost, 0.0)
    var = (columns - mean[:, None]).square().mean(1)
    if running_mean is not None and running_var is not None:
        count = columns.shape[1]
        with torch.no_grad():
            unbiased = var * (count / (count - 1))
            running_mean.copy_(momentum * mean + (1.0 - momentum) * running_mean.to(dtype))
            running_var.copy_(momentum * unbiased + (1.0 - momentum) * running_var.to(dtype))
    return mean, var


def normalized_residue(
    z: Tensor,  # [N, C, *]
    mean: Tensor,  # [C]
    rstd: Tensor,  # [C]
    weight: Tensor | None,  # [C]
    bias: Tensor | None,  # [C]
    keep: Tensor | None,  # [N]
) -> Tensor:  # [N, C, *]
    """q = keep·(γ·(z − mean)·rstd + β)."""
    dtype = mean.dtype
    q = (z.to(dtype) - along(mean, z, 1, dtype)) * along(rstd, z, 1, dtype)
    if weight is not None:
        q = q * along(weight, z, 1, dtype)
    if bias is not None:
        q = q + along(bias, z, 1, dtype)
    if keep is not None:
        q = q * along(keep, z, 0, dtype)
    return q


def residual_energy_layer_norm(
    x: Tensor,  # [N, *, C]
    r: Tensor,  # [N, *, C]
    weight: Tensor | None,  # [C]
    bias: Tensor | None,  # [C]
    *,
    eps: float = 1e-5,
    scale: Tensor | None = None,  # [C]
    keep: Tensor | None = None,  # [N]
    p: float = 2.0,
    with_energy: bool = True,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # [N, *, C] twice, [N], [N, *] twice
    """q = keep·scale·r, y = x + q, LayerNorm(y), e_i = Σ_d |q|^p, with each row's mean and rstd."""
    check_residual_energy_layer_norm(x, r, weight, bias, eps, scale, keep, p)
    with torch.autocast(x.device.type, enabled=False):
        dtype = accumulation_dtype(x, r)
        q = residue(r, scale, keep, dtype, dim=-1)
        y = (x.to(dtype) + q).to(torch.promote_types(x.dtype, r.dtype)).contiguous()
        rows = y.to(dtype)  # as they are stored, since that is what backward reads
        mean = rows.mean(-1)
        mean = mean + (rows - mean[..., None]).mean(-1)  # what the first sum lost far from 0
        rstd = ((rows - mean[..., None]).square().mean(-1) + eps).rsqrt()
        normed = normalized_rows(rows, mean, rstd)
        if weight is not None:
            normed = normed * weight.to(dtype)
        if bias is not None:
            normed = normed + bias.to(dtype)
        energy = energy_of(q, p) if with_energy else q.new_empty(0)
        return y, normed.to(y.dtype).contiguous(), energy, mean, rstd


def normalized_rows(
    y: Tensor,  # [N, *, C]
    mean: Tensor,  # [N, *]
    rstd: Tensor,  # [N, *]
) -> Tensor:  # [N, *, C]
    """(y − mean)·rstd."""
    return (y.to(mean.dtype) - mean[..., None]) * rstd[..., None]


def displacement_energy(
    x: Tensor,  # [N, C, *]
    y: Tensor,  # [N, C, *]
    *,
    p: float = 2.0,
) -> Tensor:  # [N]
    """e_i = Σ_d |y − x|^p."""
    check_displacement_energy(x, y, p)
    with torch.autocast(x.device.type, enabled=False):
        dtype = accumulation_dtype(x, y)
        return energy_of(y.to(dtype) - x.to(dtype), p)
