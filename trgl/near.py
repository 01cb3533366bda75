"""What was probably meant by a name that is not known."""

import difflib
from collections.abc import Iterable


def meant(name: str, known: Iterable[str], most: int = 3) -> str:
    """A sentence, behind a space, with the names nearest to one that is not known, if any is near.

    Args:
        name: that is not known.
        known: the names that are.
        most: how many are said, at least 1.
    """
    near = difflib.get_close_matches(name, list(known), n=most, cutoff=0.5)
    others = f" Also near: {', '.join(near[1:])}." if near[1:] else ""
    return f" Did you mean {near[0]}?{others}" if near else ""
