"""Networks that a user wrote in a file of their own."""

import inspect

from torch import nn

from .. import own_code


def build(reference: str, shape: tuple[int, ...], classes: int) -> nn.Module:
    """What a user's function makes.

    Args:
        reference: FILE.py:NAME of a callable (input_shape, num_classes) -> nn.Module.
        shape: (C, H, W) of one image.
        classes: of its own classifier, where it has one.

    Raises:
        ValueError: the file cannot be loaded, or what it defines is no such callable, or fails.
    """
    function = own_code.load(reference)
    if not callable(function) or isinstance(function, nn.Module):
        raise ValueError(
            f"a network is made by a callable (input_shape, num_classes) -> nn.Module, but "
            f"{reference} is a {type(function).__name__}; write a function that returns it."
        )
    try:
        inspect.signature(function).bind(shape, classes)
    except TypeError as error:
        raise ValueError(
            f"a network is made by a callable (input_shape, num_classes) -> nn.Module, but "
            f"{reference} does not take these: {error}."
        ) from None
    with own_code.called(reference):
        model = function(shape, classes)
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"{reference} must return an nn.Module, but it returned {type(model).__name__}."
        )
    return model
