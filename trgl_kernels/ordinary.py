"""Which modules do what their class says and no more, so that a fused operator may stand in.

A hook, a parametrization or a forward of its own makes a module another one: it is called, as it
would be without the fused operators.
"""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.module import _has_any_global_hook

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
# by name: timm need not be there, and torchvision takes long to import
_TIMM_LAYER_NORM = ("timm.layers.norm", "LayerNorm")
_TIMM_DROP_PATH = ("timm.layers.drop", "DropPath")
_STOCHASTIC_DEPTH = ("torchvision.ops.stochastic_depth", "StochasticDepth")


def customized(*modules: nn.Module) -> bool:
    """Whether calling one of `modules` does something else than the forward of its class."""
    for module in modules:
        if "forward" in vars(module):
            return True
    return hooked(*modules)


def hooked(*modules: nn.Module) -> bool:
    """Whether hooks run where one of `modules` is called."""
    for module in modules:
        if (
            module._forward_hooks
            or module._forward_pre_hooks
            or module._backward_hooks
            or module._backward_pre_hooks
        ):
            return True
    return bool(_has_any_global_hook())


def fusible(bn: nn.Module, activation: nn.Module | None = None) -> bool:
    """Whether `bn` is an ordinary BatchNorm, and `activation`, if any, an ordinary ReLU."""
    if type(bn) not in _BATCH_NORMS:
        return False
    if activation is None:
        return not customized(bn)
    return type(activation) is nn.ReLU and not customized(bn, activation)


def rectifies(activation: nn.Module) -> bool:
    """Whether `activation` is an ordinary ReLU."""
    return type(activation) is nn.ReLU and not customized(activation)


def normalizes_rows(
    norm: nn.Module,
    x: Tensor,  # [N, *, C]
) -> bool:
    """Whether `norm` is an ordinary LayerNorm over the last dimension, and fits that of `x`."""
    if not isinstance(norm, nn.LayerNorm) or customized(norm):
        return False
    by_name = _named(norm, _TIMM_LAYER_NORM) and not getattr(norm, "_fast_norm", True)
    fits = tuple(norm.normalized_shape) == tuple(x.shape[-1:])
    return (type(norm) is nn.LayerNorm or by_name) and fits


def drops_samples(module: nn.Module | None) -> bool:
    """Whether `module` is nothing, or an ordinary DropPath, which drops whole samples."""
    if module is None:
        return True
    ordinary = type(module) is nn.Identity or _named(module, _TIMM_DROP_PATH)
    by_row = _named(module, _STOCHASTIC_DEPTH) and module.mode == "row"
    return (ordinary or by_row) and not customized(module)


def drawn(
    module: nn.Module | None,
    like: Tensor,  # [N, *]
) -> Tensor | None:  # [N]
    """The factors by which a DropPath multiplies the samples of `like`; None where it drops none.

    They come from the module itself, so that type, distribution and the generator's state are those
    of its call.
    """
    if module is None or type(module) is nn.Identity or not module.training:
        return None
    probability = module.p if _named(module, _STOCHASTIC_DEPTH) else module.drop_prob
    if probability == 0.0:
        return None
    factors: Tensor = module(like.new_ones(like.shape[0], 1))
    return factors.view(-1)


def batch_norm_arguments(
    bn: nn.Module,
    z: Tensor,  # [N, C, *]
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None, bool, float, float]:
    """What the operators take from an ordinary BatchNorm, which counts the batch.

    (weight, bias, running_mean, running_var, whether the batch's statistics are used, momentum,
    eps).
    """
    assert isinstance(bn, _BatchNorm)
    bn._check_input_dim(z)
    try:  # past the module's own way of finding them, which takes longer than all the rest here
        parameters, buffers = bn._parameters, bn._buffers
        weight, bias = parameters["weight"], parameters["bias"]
        running_mean, running_var = buffers["running_mean"], buffers["running_var"]
        batches = buffers["num_batches_tracked"]
    except KeyError:  # plain attributes, as in a replica of nn.DataParallel
        weight, bias = bn.weight, bn.bias
        running_mean, running_var, batches = bn.running_mean, bn.running_var, bn.num_batches_tracked
    training, tracked, momentum = bn.training, bn.track_running_stats, bn.momentum
    if training and tracked and batches is not None:
        batches.add_(1)
        if momentum is None:
            momentum = 1.0 / float(batches)
    if training and not tracked:
        running_mean = running_var = None
    return (
        weight,
        bias,
        running_mean,
        running_var,
        training or running_mean is None,
        0.0 if momentum is None else momentum,
        bn.eps,
    )


def _named(module: nn.Module, name: tuple[str, str]) -> bool:
    return (type(module).__module__, type(module).__name__) == name


def autocast_dtype(tensor: Tensor) -> torch.dtype | None:
    """The type to which autocast casts what meets `tensor` in a convolution; None if it is off."""
    device = tensor.device.type
    if not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
        return None
    return torch.get_autocast_dtype(device)
