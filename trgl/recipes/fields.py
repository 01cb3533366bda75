"""What a field of a recipe says and accepts, and the check of its value."""

from __future__ import annotations

import dataclasses
import math
from typing import Any


def option(
    text: str,
    *,
    default: Any = dataclasses.MISSING,
    unit: str = "",
    choices: tuple[str, ...] = (),
    least: float | None = None,
    above: float | None = None,
) -> Any:
    """A field with what its command line option says and accepts."""
    metadata = {"help": text, "unit": unit, "choices": choices, "least": least, "above": above}
    if default is dataclasses.MISSING:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def _kinds(annotation: str) -> tuple[type, ...]:
    return {"int": (int,), "float": (int, float), "str": (str,), "bool": (bool,)}.get(
        annotation, (tuple,)
    )


def check_field(recipe: object, field: dataclasses.Field[Any]) -> None:
    """Hold the value of a field against its type, choices and range.

    Raises:
        ValueError: it does not fit.
    """
    value: Any = getattr(recipe, field.name)
    kinds = _kinds(str(field.type))
    fits = isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))
    if not fits:
        raise ValueError(f"{field.name} must be of type {field.type}, received {value!r}.")
    choices, least, above = (field.metadata[key] for key in ("choices", "least", "above"))
    if choices and value not in choices:
        raise ValueError(f"{field.name} must be one of {', '.join(choices)}, received {value!r}.")
    if least is not None and not least <= value < math.inf:
        raise ValueError(f"{field.name} must be at least {least}, and finite, received {value}.")
    if above is not None and not above < value < math.inf:
        raise ValueError(f"{field.name} must be above {above}, and finite, received {value}.")
