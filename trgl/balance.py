"""How many blocks each module gets."""

from collections.abc import Sequence
from functools import cache
from numbers import Integral

import torch
from torch import nn

from . import heads, losses
from .body import Body, Unit
from .dry_run import DryRun
from .heads import Head, Shape
from .losses import LossBuilder
from .memory.fake import Fakes
from .memory.intervals import HeadBytes, Row
from .memory.partition import balanced
from .memory.saved import precision

_NO_ENERGY = 1 << 62
BATCH = 32  # samples for which bytes are compared; they are very nearly proportional to it


def counts_of(balance: str | Sequence[int], modules: int, blocks: int) -> list[int] | None:
    """Blocks per module; None where they have to be counted, for balance="memory".

    Raises:
        ValueError: more modules than blocks, or a balance that is neither a known name nor a list
            of `modules` numbers with the sum `blocks`.
    """
    if modules > blocks:
        raise ValueError(
            f"A module needs at least one block: the model has {blocks} blocks, but {modules} "
            f"modules were asked for. Use modules={blocks} or fewer."
        )
    if isinstance(balance, str):
        if balance not in ("depth", "memory"):
            raise ValueError(
                f"balance must be 'depth', 'memory' or a list of the blocks per module, but got "
                f"{balance!r}. Use balance='depth'."
            )
        even, odd = divmod(blocks, modules)
        return [even + (k < odd) for k in range(modules)] if balance == "depth" else None
    if not isinstance(balance, Sequence) or not all(map(_is_whole, balance)):
        raise ValueError(
            f"balance must be 'depth', 'memory' or a list of whole numbers, the blocks per module, "
            f"but got {balance!r}. Use balance='depth'."
        )
    counts = [int(count) for count in balance]
    if len(counts) != modules or sum(counts) != blocks or min(counts) < 1:
        raise ValueError(
            f"balance must list at least one block for each of {modules} modules, {blocks} blocks "
            f"in all, but got {counts} with {sum(counts)} blocks. Use balance='depth' or other "
            f"numbers."
        )
    return counts


def by_memory(
    model: nn.Module,
    encoder: nn.Module | str | None,
    stem: Sequence[Unit],
    blocks: Sequence[Sequence[Unit]],
    shape: Shape,
    num_classes: int,
    head: Head | Sequence[Head],
    modules: int,
    *,
    energy: str,
    recompute_heads: Sequence[bool],
    freeze_head: bool = False,
    images: Shape,
    local_losses: Sequence[LossBuilder | None],
    autocast: torch.dtype | None = None,
    in_front: int = 0,
) -> list[int]:
    """Blocks per module such that the heaviest one keeps the fewest bytes for backward.

    A module without an energy is made only where there are not enough blocks that have one.
    Counted with its head, with the energies, in the type of the weights or under autocast.

    Args:
        model: whose blocks they are, regularized.
        encoder: as `split` takes it.
        stem: the units of module 0; empty without one.
        blocks: units of every block, what stands in front of the first one included.
        shape: of one image.
        num_classes: width of the logits.
        head: of all modules, or one per module.
        modules: K.
        energy: "residue", "displacement" or "module".
        recompute_heads: of every module, whether its head runs again in backward.
        freeze_head: the heads do not train.
        images: shape of what enters the network, which local losses are given.
        local_losses: of every module; None is cross-entropy alone.
        autocast: bfloat16, float16 or None.
        in_front: how many units of the first block stand in front of it.

    Raises:
        ValueError: layers or heads that do not fit.
    """
    bodies: list[Body] = []
    shapes: list[Shape] = []
    terms: list[int] = []
    whole = energy == "module"
    with DryRun(model, encoder) as run:
        x = run.images(shape)
        front: Body | None = None
        if stem:
            x, front, _ = run.body([stem], x, "residue", "the encoder")
        device, dtype, entering = x.device, x.dtype, tuple(x.shape[1:])
        for number, block in enumerate(blocks, 1):
            owner = f"the module with block {number}"
            skipped = in_front if number == 1 else 0
            x, body, count = run.body([block], x, "residue" if whole else energy, owner, skipped)
            bodies.append(body)
            terms.append(count)
            shapes.append(tuple(x.shape[1:]))
    fakes = Fakes()
    with fakes.mode:
        first = torch.empty(BATCH, *entering, device=device, dtype=dtype)
        originals = torch.empty(BATCH, *images, device=device, dtype=dtype) if stem else first
    if front is not None and autocast is not None:  # then it may hand on another type
        front = fakes.module(front)
        with fakes.mode, torch.no_grad(), precision(originals, autocast):
            first = front(originals)
    row = Row(bodies, first, fakes, energies=not whole, whole=whole, autocast=autocast)

    several = isinstance(head, Sequence) and not isinstance(head, str)
    kinds: list[Head] = list(head) if several else [head] * modules  # type: ignore[arg-type,list-item]
    if len(kinds) != modules:
        return counts_of("depth", modules, len(blocks)) or []  # refused where the heads are built

    @cache
    def head_parts(kind: Head, local: LossBuilder | None, again: bool, stop: int) -> HeadBytes:
        features = shapes[stop - 1]
        loss = None
        with torch.random.fork_rng(devices=[]):  # only the heads that stay may draw
            built = heads.build(kind, features, num_classes).to(device, dtype)
            if local is not None:
                loss = losses.build(local, features, num_classes, images).to(device, dtype)
        return row.head_parts(
            built, stop, trains=not freeze_head, recompute=again, loss=loss, images=originals
        )

    unpenalized = not any(terms) or whole

    def cost(k: int, first: int, stop: int) -> int:
        if not unpenalized and not any(terms[first:stop]):
            return _NO_ENERGY  # a penalty would be refused, if only for one module
        parts = head_parts(kinds[k], local_losses[k], recompute_heads[k], stop)
        return row.bytes(first, stop, parts)

    return balanced(cost, len(blocks), modules)


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)
