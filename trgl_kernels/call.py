"""How the public functions call their operators: arguments of other types are explained."""

from typing import Any

import torch

from .checks import refusal

# a type of the schema's, what Python values stand for it, and how to say so
_KINDS: dict[str, tuple[tuple[type, ...], str, str]] = {
    "Tensor": ((torch.Tensor,), "a torch.Tensor", "Convert it with torch.as_tensor()."),
    "bool": ((bool,), "True or False", "Convert it with bool()."),
    "float": ((int, float), "a number", "Convert it with float()."),
    "str": ((str,), "a string", "Give its name in quotes."),
}


def call(op: Any, *args: Any) -> Any:
    """op(*args); where that fails for an argument's Python type, a ValueError says which.

    The types are looked at after a failure only: a call that is right pays nothing for them.
    """
    try:
        return op(*args)
    except (RuntimeError, AttributeError):  # the latter where None went through as no tensor
        refuse_other_types(op, args)
        raise


def refuse_other_types(op: Any, args: tuple[Any, ...]) -> None:
    """Raises for an argument of another Python type than the schema of `op` has there."""
    name = op._schema.name.removeprefix("trgl::")
    for argument, value in zip(op._schema.arguments, args, strict=True):
        kind = str(argument.type)
        optional = kind.startswith("Optional[")
        types, words, remedy = _KINDS[kind.removeprefix("Optional[").removesuffix("]")]
        if isinstance(value, types) or (optional and value is None):
            continue
        raise refusal(
            f"{name}: {argument.name} must be {words}{' or None' if optional else ''}",
            repr(value) if isinstance(value, int | str) else f"a {type(value).__name__}",
            remedy,
        ) from None
