"""Which module a parameter or buffer belongs to: exactly one."""

from collections.abc import Iterable
from itertools import chain

from torch import nn


def check_ownership(parts: Iterable[tuple[str, nn.Module]]) -> None:
    """Holds that no parameter and no buffer lies in the parts of two owners.

    A tensor in two modules would be moved by two optimizers, or take the gradient or the statistics
    of a module that should not reach it.

    Args:
        parts: pairs of an owner, such as "module 2", and a body or head. An owner may have several
            parts; a head that modules share by declaration is one part, with an owner of its own.

    Raises:
        ValueError: a tensor of two owners.
    """
    owners: dict[int, tuple[str, str]] = {}
    for owner, part in parts:
        for name, tensor in chain(part.named_parameters(), part.named_buffers()):
            first, as_name = owners.setdefault(id(tensor), (owner, name))
            if first != owner:
                raise ValueError(
                    f"Every parameter and buffer must belong to one module, because each module "
                    f"has its own optimizer and statistics, but {name!r} of {owner} also belongs "
                    f"to {first}, as {as_name!r}. Give each its own (copy.deepcopy the layer; let "
                    f"a callable for heads build a new head at every call), or put both into one "
                    f"module; one head for all modules is split(shared_head=True)."
                )
