"""The weight of a local loss beside its criterion."""

import math


def check_weight(name: str, weight: object, most: float) -> None:
    """Holds that the weight of a local loss lies between 0 and `most`.

    Raises:
        ValueError: it does not.
    """
    number = isinstance(weight, int | float) and not isinstance(weight, bool)
    if not number or not 0 <= weight <= most or weight == math.inf:  # type: ignore[operator]
        limit = "from 0 to 1" if most == 1 else "of at least 0"
        raise ValueError(
            f"The weight of local loss {name!r} must be a finite number {limit}, but got "
            f"{weight!r}. Leave it out for the default."
        )
