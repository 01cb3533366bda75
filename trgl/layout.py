"""Which layers of a model are its stem and which are its blocks."""

import sys
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

_NORMS = (_BatchNorm, _InstanceNorm, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
_STEM = ("conv1", "bn1", "relu", "maxpool")
_STAGES = ("layer1", "layer2", "layer3", "layer4")
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@dataclass(frozen=True)
class Layout:
    """A model as a row of blocks.

    Args:
        stem: names of the layers in front of the first block.
        blocks: for every block the names of its layers, in the order of running. Layers that are
            in neither, such as the model's own classifier, are dropped.
    """

    stem: tuple[str, ...]
    blocks: tuple[tuple[str, ...], ...]


def layout_of(model: nn.Module) -> Layout:
    """Finds the blocks of a torchvision ResNet or of any `nn.Sequential`.

    ResNet, ResNeXt and WideResNet: the stem is conv1, bn1, relu and maxpool, a block is a residual
    block, and the classifier is dropped. `nn.Sequential`: see `_sequential`; nothing is dropped.

    Raises:
        ValueError: a model of another kind, or one without blocks; a ResNet or Sequential that
            does more than run its layers in order.
    """
    resnet = sys.modules.get("torchvision.models.resnet")
    if resnet is not None and isinstance(model, resnet.ResNet):
        return _resnet(model, resnet.ResNet)
    if _is_sequential(model):
        layout = _sequential(model)
        if layout.blocks:
            return layout
        raise ValueError("A Sequential without layers cannot be split. Put layers into it.")
    if isinstance(model, nn.Sequential):
        raise ValueError(
            f"A Sequential is split into its layers, so that it must do nothing but run them, but "
            f"got {type(model).__name__} with {_more(model)}. Put its layers into a plain "
            f"nn.Sequential: nn.Sequential(*model)."
        )
    raise ValueError(
        f"split takes a torchvision ResNet, ResNeXt or WideResNet, or an nn.Sequential, because it "
        f"must know in which order the layers run; but got {type(model).__name__}. Wrap the layers "
        f"in an nn.Sequential in the order of running, without the classifier."
    )


def _resnet(model: nn.Module, kind: type[nn.Module]) -> Layout:
    """Stem and blocks of a torchvision ResNet, whose forward must be torchvision's."""
    more = _more(model, kind, ("forward", "_forward_impl"))
    if more:
        raise ValueError(
            f"A ResNet is split into its layers, in the order in which torchvision runs them, but "
            f"got {type(model).__name__} with {more}. Remove it, or wrap the layers in an "
            f"nn.Sequential in the order of running, without the classifier."
        )
    for name in (*_STEM, *_STAGES):
        if not isinstance(getattr(model, name, None), nn.Module):
            raise ValueError(
                f"A ResNet is split into its layers, but {name!r} of {type(model).__name__} is no "
                f"module. Put nn.Identity() there, or an empty nn.Sequential() for a stage."
            )
    for stage in _STAGES:
        module = model.get_submodule(stage)
        if not _is_sequential(module):
            raise ValueError(
                f"The stages of a ResNet must be plain Sequentials, which do nothing but run their "
                f"blocks, but {stage!r} is {type(module).__name__} with "
                f"{_more(module) or 'a forward of its own'}. Make it nn.Sequential(*blocks); an "
                f"empty one drops the stage."
            )
    blocks = [
        f"{stage}.{name}" for stage in _STAGES for name, _ in _children(model.get_submodule(stage))
    ]
    if not blocks:
        raise ValueError("A ResNet without blocks cannot be split. Leave it at least one.")
    return Layout(_STEM, tuple((block,) for block in blocks))


def _more(
    module: nn.Module,
    kind: type[nn.Module] = nn.Sequential,
    methods: tuple[str, ...] = ("forward",),
) -> str:
    """What the module does beside what `kind` does; empty if nothing."""
    if any(getattr(module, hooks) for hooks in _HOOKS):
        return "hooks"
    for name in methods:
        own = name in vars(module) or getattr(type(module), name) is not getattr(kind, name)
        if own:
            return f"a {name} of its own"
    return ""


def _is_sequential(module: nn.Module) -> bool:
    """Whether running the children one after the other is what the module does."""
    return isinstance(module, nn.Sequential) and not _more(module)


def is_composite(module: nn.Module) -> bool:
    """Whether the module is a block of its own, such as a residual block, or contains one."""
    if _is_sequential(module):
        return any(is_composite(child) for child in module._modules.values() if child is not None)
    return bool(module._modules)


def _has_weights(module: nn.Module) -> bool:
    """Whether the module has weights that are no norm's or activation's: a convolution, say."""
    if isinstance(module, (*_NORMS, nn.PReLU)):
        return False
    return any(True for _ in module.parameters())


def _sequential(model: nn.Module) -> Layout:
    """The blocks of a Sequential, nested Sequentials being looked into.

    Where some layers are composite (residual blocks, anything with layers inside), each of these is
    a block, and plain layers belong to the block that follows: those in front of the first one are
    the stem, those after the last one belong to it. Where all are plain, a nested Sequential is a
    block, and else a block is a convolution, linear or other layer with weights together with the
    norms, activations and poolings that follow it; there is no stem.
    """
    if is_composite(model):
        return _composites(model)
    blocks: list[tuple[str, ...]] = []
    open_block = True  # the last block still waits for its layer with weights
    for name, child in _children(model):
        group = _leaves(child, f"{name}.") if _is_sequential(child) else [(name, child)]
        names = tuple(leaf for leaf, _ in group)
        has_layer = any(_has_weights(leaf) for _, leaf in group)
        if not blocks or (has_layer and not open_block):
            blocks.append(names)
            open_block = not has_layer
        else:
            blocks[-1] += names
            open_block = open_block and not has_layer
    return Layout((), tuple(block for block in blocks if block))


def _composites(model: nn.Module) -> Layout:
    stem: tuple[str, ...] | None = None
    blocks: list[tuple[str, ...]] = []
    waiting: list[str] = []
    for name, child in _leaves(model, ""):
        waiting.append(name)
        if not is_composite(child):
            continue
        if stem is None:
            stem, waiting = tuple(waiting[:-1]), waiting[-1:]
        blocks.append(tuple(waiting))
        waiting = []
    if waiting:
        blocks[-1] = (*blocks[-1], *waiting)
    return Layout(stem or (), tuple(blocks))


def _children(module: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(name, child) for name, child in module._modules.items() if child is not None]


def _leaves(module: nn.Module, prefix: str) -> list[tuple[str, nn.Module]]:
    """The layers of nested Sequentials, flat, in the order of running."""
    found: list[tuple[str, nn.Module]] = []
    for name, child in _children(module):
        if _is_sequential(child):
            found += _leaves(child, f"{prefix}{name}.")
        else:
            found.append((prefix + name, child))
    return found
