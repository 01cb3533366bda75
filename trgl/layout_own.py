"""The layout that a model of a user's own tells."""

from torch import nn

from .sequence import Layout


def layout_of(model: nn.Module) -> Layout | None:
    """What the model's method `layout` returns, checked; None where it has no such method.

    Its `stem` and `blocks` may be any sequences of names, and a block that is one layer may be
    named by itself.

    Raises:
        ValueError: something else than a `Layout`, no blocks, or a name that is no layer's or is
            given twice.
    """
    method = getattr(model, "layout", None)
    if not callable(method) or isinstance(method, nn.Module):
        return None
    told = method()
    kind = type(model).__name__
    if not isinstance(told, Layout):
        raise ValueError(
            f"The method `layout` of a model tells split where its blocks are, as a trgl.Layout, "
            f"but that of {kind} returned {type(told).__name__}. Return trgl.Layout(stem=[...], "
            f"blocks=[...]), with names of layers."
        )
    stem = (told.stem,) if isinstance(told.stem, str) else tuple(told.stem)
    blocks = tuple((block,) if isinstance(block, str) else tuple(block) for block in told.blocks)
    if not blocks or not all(blocks):
        raise ValueError(
            f"A layout needs at least one block, each with at least one layer, but that of {kind} "
            f"has {list(map(list, blocks))}. Name the layers of its blocks."
        )
    layers = dict(model.named_modules(remove_duplicate=False)) | dict(told.added)
    seen: set[str] = set()
    for name in (*stem, *(name for block in blocks for name in block)):
        if not name or name not in layers:
            raise ValueError(
                f"A layout names layers of the model, but that of {kind} has {name!r}, which "
                f"{kind} does not have. Its names are those of model.named_modules()."
            )
        if name in seen:
            raise ValueError(
                f"A layout names every layer once, but that of {kind} has {name!r} twice. A layer "
                f"that runs twice cannot be split; give each place a layer of its own."
            )
        seen.add(name)
    return Layout(stem, blocks, dict(told.added), told.channels_last, told.concatenates, True)
