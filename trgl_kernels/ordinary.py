"""Which modules do what their class says and no more, so that a fused operator may stand in.

A hook, a parametrization or a forward of its own makes a module another one: it is called, as it
would be without the fused operators.
"""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.module import _has_any_global_hook
from torchvision.ops import StochasticDepth

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
# by name: timm need not be there
_TIMM_LAYER_NORM = ("timm.layers.norm", "LayerNorm")
_TIMM_DROP_PATH = ("timm.layers.drop", "DropPath")


def customized(module: nn.Module) -> bool:
    """Whether calling `module` does something else than the forward of its class."""
    return "forward" in vars(module) or hooked(module)


def hooked(module: nn.Module) -> bool:
    """Whether hooks run where `module` is called."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or _has_any_global_hook()
    )


def fusible(bn: nn.Module) -> bool:
    """Whether `bn` is an ordinary BatchNorm."""
    return type(bn) in _BATCH_NORMS and not customized(bn)


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
    by_row = type(module) is StochasticDepth and module.mode == "row"
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
    probability = module.p if isinstance(module, StochasticDepth) else module.drop_prob
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
    momentum = 0.0 if bn.momentum is None else bn.momentum
    if bn.training and bn.track_running_stats and bn.num_batches_tracked is not None:
        bn.num_batches_tracked.add_(1)
        if bn.momentum is None:
            momentum = 1.0 / float(bn.num_batches_tracked)
    tracked = not bn.training or bn.track_running_stats
    return (
        bn.weight,
        bn.bias,
        bn.running_mean if tracked else None,
        bn.running_var if tracked else None,
        bn.training or bn.running_mean is None,
        momentum,
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
