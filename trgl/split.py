"""A model into modules."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import pairwise

import torch
from torch import nn

from trgl_kernels.blocks import Regularized
from trgl_kernels.convert import twin_of

from . import heads, losses
from .balance import by_memory, counts_of
from .body import Body
from .dry_run import DryRun
from .encoder import FrozenEncoder
from .heads import Head
from .layout import layout_of
from .losses import Loss
from .network import GreedyModule, GreedyNetwork
from .recompute import recomputing
from .split_arguments import check_arguments, check_names, head_lists
from .undo import undone_on_error

DEFAULT_RECOMPUTE = "activation"


def split(
    model: nn.Module,
    modules: int,
    input_shape: Sequence[int],
    num_classes: int,
    head: Head | Sequence[Head] = "conv",
    balance: str | Sequence[int] = "depth",
    *,
    local_loss: Loss | Sequence[Loss | None] | None = None,
    energy: str | None = None,
    encoder: str | nn.Module | None = None,
    freeze_encoder: bool = False,
    shared_head: bool = False,
    freeze_head: bool = False,
    recompute: str | None = None,
    recompute_heads: bool | int = False,
    autocast: torch.dtype | None = None,
    seed: int | None = None,
) -> GreedyNetwork:
    """Splits a model into K modules with a head each, ready for module-wise training.

    The layers are taken over, not copied, and known residual blocks are swapped for regularized
    ones; state_dict keys stay. The model's own classifier is dropped. Sizes of heads come from a
    dry run that computes nothing.

    Args:
        model: torchvision's ResNet, ResNeXt, WideResNet, VGG, MobileNetV2, EfficientNet, Swin, ViT
            or DenseNet (which has no energies), timm's ResNet, ViT, Swin, ConvNeXt, RegNet or
            EfficientNet, one of `trgl.models`, a model whose method `layout` returns a
            `trgl.Layout`, or any `nn.Sequential` (without its classifier). In a Sequential a block
            is a layer that has layers inside, such as a residual block; plain layers in front
            belong to it. Where there are only plain layers, a block is a nested Sequential, or a
            layer with weights and the norms, activations and poolings after it.
        modules: K, from 1 to the number of blocks.
        input_shape: of one image, such as (C, H, W).
        num_classes: ≥ 1.
        head: "conv", "linear", "mlp", "pool-linear", "mlp-sr", a callable (shape, num_classes) ->
            nn.Module, or a list of one per module (module 0 first where an encoder trains).
        balance: "depth" gives every module the same number of blocks, and the first ones one more
            if K does not divide their number; "memory" makes the bytes that the heaviest module
            saves for backward, head included, as few as they can be; or a list of the blocks per
            module.
        local_loss: what a module minimizes in place of the criterion alone, with layers of its own
            that train with it: "similarity", "reconstruction", a callable (shape, num_classes,
            input_shape) -> nn.Module (see `trgl.losses`), or a list of one per module (module 0
            first where an encoder trains). End to end it is left out.
        energy: "residue", ‖r‖² of every residual block; "displacement", ‖y − shortcut(x)‖² after
            the activation, of every block that keeps its shape or has a shortcut; "module",
            ‖T_k(x) − x‖² of the module as a whole. None means "residue", but blocks that are
            regularized already keep their setting.
        encoder: "stem" splits off what stands in front of the first block as module 0; an
            `nn.Module` takes the stem's place; None leaves the stem to module 1.
        freeze_encoder: the encoder does not move and has no head. Otherwise it is trained as module
            0 with its own head. It is never penalized.
        shared_head: all K modules use one head.
        freeze_head: the heads stay as they are, in evaluation mode.
        recompute: what backward computes again instead of keeping it: "activation", residues and
            normalized activations; "residue"; or "none", the fastest (see
            `trgl_kernels.blocks.Regularized.with_recompute`). None means "activation", but blocks
            for which `with_recompute` or `regularize(model, recompute=...)` chose keep that.
        recompute_heads: autograd keeps no activation of a head, and runs its forward pass again in
            backward, with bitwise identical gradients: True for all modules, or n for the first n
            (and module 0), whose heads work on large maps. Less is held between the two passes; the
            second run comes first in backward, so the peak of a step that runs them back to back
            stays. A head with hooks keeps what it kept.
        autocast: torch.bfloat16 or torch.float16 where the network will train under it: the bytes
            that balance="memory" compares are then counted so. Nothing else depends on it.
        seed: of the initialization of the heads; None uses PyTorch's global generator.

    Returns:
        The network; its parameters are those of `model`, on their device.

    Raises:
        ValueError: K is larger than the number of blocks or disagrees with `balance`; a layer that
            cannot run on `input_shape`; a head that does not fit; with energy="module" a module
            that does not keep its shape; another wrong argument.

    Source: TRGL (Karkar et al., NeurIPS 2023), section 3; energy="module" is equation 2.
    """
    shape = check_arguments(
        model,
        modules,
        input_shape,
        num_classes,
        energy,
        encoder,
        freeze_encoder,
        recompute,
        autocast,
        seed,
    )
    recomputes = recomputing(recompute_heads, modules)
    layout = layout_of(model)
    if layout.concatenates and energy in ("displacement", "module"):
        raise ValueError(
            f"A {type(model).__name__} has no residues and no displacements, because its layers "
            f"append to their input, but got energy={energy!r}. Leave it out, and train without a "
            f"penalty."
        )
    counts = counts_of(balance, modules, len(layout.blocks))
    zero = int(encoder is not None and not freeze_encoder)  # whether module 0 trains
    own, rest = head_lists(head, modules, zero > 0)
    local = losses.each(local_loss, modules + zero, layout.channels_last)
    if layout.channels_last:
        own, rest = heads.channels_last(own), heads.channels_last(rest)
    if layout.own and not layout.added:
        names = [*layout.stem, *(name for block in layout.blocks for name in block)]
        with DryRun(model, None) as run:
            run.follow(model, layout.units(model, names), shape)
    stem = layout.units(model, layout.stem)
    if isinstance(encoder, nn.Module):
        stem = [("encoder", encoder)]
    elif encoder == "stem" and not stem:
        raise ValueError(
            "encoder='stem' needs layers in front of the first block, but the model has none. Pass "
            "the encoder as a module: encoder=nn.Sequential(...)."
        )
    blocks = [layout.units(model, block) for block in layout.blocks]
    in_front = len(stem) if encoder is None else 0  # of the first block, in module 1
    if in_front:
        blocks[0] = stem + blocks[0]
    check_names([*stem, *(unit for block in blocks for unit in block)])

    watched = [model, encoder] if isinstance(encoder, nn.Module) else [model]
    with undone_on_error(*watched):
        _regularize(model, energy, recompute)
        if counts is None:
            counts = by_memory(
                model,
                encoder,
                stem if encoder is not None else [],
                blocks,
                shape,
                num_classes,
                rest,
                modules,
                energy=energy or "residue",
                recompute_heads=recomputes,
                freeze_head=freeze_head,
                images=shape,
                local_losses=local[zero:],
                autocast=autocast,
                in_front=in_front,
            )
        starts = [sum(counts[:k]) for k in range(modules + 1)]
        groups = [blocks[a:b] for a, b in pairwise(starts)]
        with DryRun(model, encoder) as run:
            x = run.images(shape)
            front: Body | None = None
            if encoder is not None:
                x, front, _ = run.body([stem], x, "residue", "the encoder")
            front_shape = tuple(x.shape[1:])
            bodies, shapes, terms = [], [], []
            for number, group in enumerate(groups, 1):
                skipped = in_front if number == 1 else 0
                owner = f"module {number}"
                x, body, count = run.body(group, x, energy or "residue", owner, skipped)
                bodies.append(body)
                shapes.append(tuple(x.shape[1:]))
                terms.append(count)

            every = [front_shape, *shapes][1 - zero :]  # of the modules that train
            with _seeded(seed):
                front_head = run.head(own, front_shape, num_classes) if zero else None
                built = heads.build_all(rest, shapes, num_classes, shared_head)
                added = [
                    None if kind is None else losses.build(kind, features, num_classes, shape)
                    for kind, features in zip(local, every, strict=True)
                ]
            for number, (one, features) in enumerate(zip(built, shapes, strict=True), 1):
                run.check_head(one, features, num_classes, f"module {number}")
            for number, (loss, features) in enumerate(zip(added, every, strict=True), 1 - zero):
                if loss is not None:
                    run.check_loss(loss, features, shape, f"module {number}")

        module_zero: GreedyModule | FrozenEncoder | None = None
        if front is not None:
            module_zero = (
                FrozenEncoder(front.named_units())
                if front_head is None
                else GreedyModule(
                    front,
                    front_head,
                    added[0],
                    freeze_head=freeze_head,
                    recompute_head=recomputes[0],
                )
            )
        return GreedyNetwork(
            [
                GreedyModule(
                    body,
                    one,
                    loss,
                    freeze_head=freeze_head,
                    energy_terms=count,
                    recompute_head=again,
                )
                for body, one, loss, count, again in zip(
                    bodies, built, added[zero:], terms, recomputes, strict=True
                )
            ],
            module_zero,
            input_shape=shape,
            num_classes=num_classes,
        )


def _regularize(model: nn.Module, energy: str | None, recompute: str | None) -> None:
    """Swaps known blocks; those regularized already keep what was chosen for them.

    That is their `recompute` and their energy, unless one was asked for.
    """
    asked = energy if energy in ("residue", "displacement") else None
    for layer in list(model.modules()):
        if isinstance(layer, Regularized):
            if asked is not None:
                layer.with_energy(asked)
            if recompute is not None or "recompute" not in vars(layer):
                layer.with_recompute(recompute or DEFAULT_RECOMPUTE)
        elif (twin := twin_of(layer)) is not None:
            layer.__class__ = twin
            assert isinstance(layer, Regularized)
            layer.with_energy(asked or "residue").with_recompute(recompute or DEFAULT_RECOMPUTE)


@contextmanager
def _seeded(seed: int | None) -> Iterator[None]:
    with nullcontext() if seed is None else torch.random.fork_rng(devices=[]):
        if seed is not None:
            torch.default_generator.manual_seed(seed)
        yield
