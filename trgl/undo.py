"""Taking back what was changed about a model, where an error follows."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

_CHOICES = ("energy", "recompute")


@contextmanager
def undone_on_error(*models: nn.Module) -> Iterator[None]:
    """If an error leaves the context, every layer and parameter of `models` is as it was before.

    That is: its class, mode, own `energy` and `recompute`, and whether it takes a gradient. Values,
    types and devices are not watched.

    Args:
        models: whose layers are watched.
    """
    layers = [layer for model in models for layer in model.modules()]
    before = [
        (type(layer), layer.training, {name: vars(layer).get(name) for name in _CHOICES})
        for layer in layers
    ]
    gradients = [(p, p.requires_grad) for model in models for p in model.parameters()]
    try:
        yield
    except BaseException:
        for layer, (kind, mode, choices) in zip(layers, before, strict=True):
            if type(layer) is not kind:
                layer.__class__ = kind
            layer.training = mode
            for name, choice in choices.items():
                if choice is None:
                    vars(layer).pop(name, None)
                else:
                    vars(layer)[name] = choice
        for parameter, wanted in gradients:
            parameter.requires_grad_(wanted)
        raise
