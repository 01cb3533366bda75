"""Taking back what was changed about a model, where an error follows."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def undone_on_error(*models: nn.Module) -> Iterator[None]:
    """If an error leaves the context, every layer and parameter of `models` is as it was before.

    That is: its class, mode and own `energy`, and whether it takes a gradient. Values, types and
    devices are not watched.

    Args:
        models: whose layers are watched.
    """
    layers = [layer for model in models for layer in model.modules()]
    before = [(type(layer), layer.training, vars(layer).get("energy")) for layer in layers]
    gradients = [(p, p.requires_grad) for model in models for p in model.parameters()]
    try:
        yield
    except BaseException:
        for layer, (kind, mode, energy) in zip(layers, before, strict=True):
            if type(layer) is not kind:
                layer.__class__ = kind
            layer.training = mode
            if energy is None:
                vars(layer).pop("energy", None)
            else:
                vars(layer)["energy"] = energy
        for parameter, wanted in gradients:
            parameter.requires_grad_(wanted)
        raise
