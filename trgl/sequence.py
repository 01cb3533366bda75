"""A row of layers as blocks."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

_NORMS = (_BatchNorm, _InstanceNorm, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
_STAGES = ("layer1", "layer2", "layer3", "layer4")
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@dataclass(frozen=True)
class Layout:
    """A model as a row of blocks.

    Args:
        stem: names of the layers in front of the first block.
        blocks: for every block the names of its layers, in the order of running. Layers that are
            in neither, such as the model's own classifier, are dropped.
        added: layers that the model does not have, but its forward does, by name.
        channels_last: features have their channels in the last dimension.
        concatenates: a block appends to its input, so that there is no residue or displacement.
        own: the model told it by a method of its own.
    """

    stem: tuple[str, ...]
    blocks: tuple[tuple[str, ...], ...]
    added: Mapping[str, nn.Module] = field(default_factory=dict)
    channels_last: bool = False
    concatenates: bool = False
    own: bool = False

    def units(self, model: nn.Module, names: Sequence[str]) -> list[tuple[str, nn.Module]]:
        """Pairs of name and layer."""
        return [(name, self.added.get(name) or model.get_submodule(name)) for name in names]


def more(
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


def loaded(file: str) -> ModuleType | None:
    """A file of a library of models, if anything imported it: then a model may come from it."""
    return sys.modules.get(file)


def check_ordinary(
    model: nn.Module,
    kind: type[nn.Module],
    methods: tuple[str, ...],
    library: str = "torchvision",
) -> None:
    """Holds that running the layers in order is all that the model does.

    Raises:
        ValueError: it has hooks, or one of `methods` is not that of `kind`.
    """
    found = more(model, kind, methods)
    if found:
        raise ValueError(
            f"A {kind.__name__} is split into its layers, in the order in which {library} runs "
            f"them, but got {type(model).__name__} with {found}. Remove it, or wrap the layers in "
            f"an nn.Sequential in the order of running, without the classifier."
        )


def row(model: nn.Module, name: str) -> nn.Module:
    """A row of layers inside of a model.

    Raises:
        ValueError: it does more than run its layers.
    """
    found = model.get_submodule(name)
    if not is_sequential(found):
        raise ValueError(
            f"{name!r} of a {type(model).__name__} must be a plain Sequential, which does nothing "
            f"but run its layers, but it is {type(found).__name__} with "
            f"{more(found) or 'a forward of its own'}. Make it nn.Sequential(*layers), and split "
            f"before regularizing: split does so itself."
        )
    return found


def is_sequential(module: nn.Module) -> bool:
    """Whether running the children one after the other is what the module does."""
    return isinstance(module, nn.Sequential) and not more(module)


def is_composite(module: nn.Module) -> bool:
    """Whether the module is a block of its own, such as a residual block, or contains one."""
    if is_sequential(module):
        return any(is_composite(child) for child in module._modules.values() if child is not None)
    return bool(module._modules)


def _has_weights(module: nn.Module) -> bool:
    """Whether the module has weights that are no norm's or activation's: a convolution, say."""
    if isinstance(module, (*_NORMS, nn.PReLU)):
        return False
    return any(True for _ in module.parameters())


def sequential(
    model: nn.Module, prefix: str = "", joins: tuple[type[nn.Module], ...] = ()
) -> Layout:
    """The blocks of a Sequential, nested Sequentials being looked into.

    Where some layers are composite (residual blocks, anything with layers inside), each of these is
    a block, and plain layers belong to the block that follows: those in front of the first one are
    the stem, those after the last one belong to it. Where all are plain, a nested Sequential is a
    block, and else a block is a convolution, linear or other layer with weights together with the
    norms, activations and poolings that follow it; there is no stem.

    Args:
        model: runs its children one after the other.
        prefix: of the names.
        joins: kinds of composite layers that belong to the block that follows, as plain ones do.
    """
    if is_composite(model):
        return _composites(model, prefix, joins)
    blocks: list[tuple[str, ...]] = []
    open_block = True  # the last block still waits for its layer with weights
    for child_name, child in children(model):
        name = prefix + child_name
        group = _leaves(child, f"{name}.") if is_sequential(child) else [(name, child)]
        names = tuple(leaf for leaf, _ in group)
        has_layer = any(_has_weights(leaf) for _, leaf in group)
        if not blocks or (has_layer and not open_block):
            blocks.append(names)
            open_block = not has_layer
        else:
            blocks[-1] += names
            open_block = open_block and not has_layer
    return Layout((), tuple(block for block in blocks if block))


def _composites(model: nn.Module, prefix: str, joins: tuple[type[nn.Module], ...]) -> Layout:
    stem: tuple[str, ...] | None = None
    blocks: list[tuple[str, ...]] = []
    waiting: list[str] = []
    for name, child in _leaves(model, prefix):
        waiting.append(name)
        if not is_composite(child) or isinstance(child, joins):
            continue
        if stem is None:
            stem, waiting = tuple(waiting[:-1]), waiting[-1:]
        blocks.append(tuple(waiting))
        waiting = []
    if waiting:
        blocks[-1] = (*blocks[-1], *waiting)
    return Layout(stem or (), tuple(blocks))


def children(module: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(name, child) for name, child in module._modules.items() if child is not None]


def _leaves(module: nn.Module, prefix: str) -> list[tuple[str, nn.Module]]:
    """The layers of nested Sequentials, flat, in the order of running."""
    found: list[tuple[str, nn.Module]] = []
    for name, child in children(module):
        if is_sequential(child):
            found += _leaves(child, f"{prefix}{name}.")
        else:
            found.append((prefix + name, child))
    return found


def resnet(model: nn.Module, stem: tuple[str, ...]) -> Layout:
    """Stem and blocks of a ResNet.

    Raises:
        ValueError: a layer of the stem or a stage that is none.
    """
    for name in (*stem, *_STAGES):
        if not isinstance(getattr(model, name, None), nn.Module):
            raise ValueError(
                f"A ResNet is split into its layers, but {name!r} of {type(model).__name__} is no "
                f"module. Put nn.Identity() there, or an empty nn.Sequential() for a stage."
            )
    for stage in _STAGES:
        module = model.get_submodule(stage)
        if not is_sequential(module):
            raise ValueError(
                f"The stages of a ResNet must be plain Sequentials, which do nothing but run their "
                f"blocks, but {stage!r} is {type(module).__name__} with "
                f"{more(module) or 'a forward of its own'}. Make it nn.Sequential(*blocks); an "
                f"empty one drops the stage."
            )
    blocks = [
        f"{stage}.{name}" for stage in _STAGES for name, _ in children(model.get_submodule(stage))
    ]
    if not blocks:
        raise ValueError("A ResNet without blocks cannot be split. Leave it at least one.")
    return Layout(stem, tuple((block,) for block in blocks))
