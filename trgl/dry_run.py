"""The shapes of a model's features, found by running it on tensors without data."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.utils.hooks import RemovableHandle

from trgl_kernels import collect_energy
from trgl_kernels.blocks import Regularized

from . import heads, own_code
from .body import Body, Unit
from .heads import Head, Shape
from .layout import is_composite
from .memory.fake import FakeMode
from .reasons import reason_of
from .untouched import untouched


@contextmanager
def only_dropout_trains(*roots: nn.Module) -> Iterator[None]:
    """Inside, all layers but dropout are in evaluation mode; afterwards each is in its own again.

    Dropout may overwrite its input, in training only.
    """
    modes = [(layer, layer.training) for root in roots for layer in root.modules()]
    for layer, _ in modes:
        layer.training = isinstance(layer, _DropoutNd)
    try:
        yield
    finally:
        for layer, mode in modes:
            layer.training = mode


class DryRun:
    """Runs layers on fake tensors, which have shapes and no data.

    Inside, only dropout is in training mode; afterwards every layer is as it was, and blocks that
    were told to recover their residues keep them where something later overwrites what they would
    recover them from.
    """

    def __init__(self, model: nn.Module, encoder: str | nn.Module | None) -> None:
        roots = [model, *([encoder] if isinstance(encoder, nn.Module) else [])]
        self._roots = roots
        self._modes = only_dropout_trains(*roots)
        weights = [p for root in roots for p in root.parameters() if p.is_floating_point()]
        self._device = weights[0].device if weights else torch.device("cpu")
        self._dtype = weights[0].dtype if weights else torch.get_default_dtype()
        self._fake = FakeMode()
        self._recovering: list[tuple[Regularized, list[tuple[Tensor, int]]]] = []
        self._hooks: list[RemovableHandle] = []

    def __enter__(self) -> Self:
        self._modes.__enter__()
        for module in (layer for root in self._roots for layer in root.modules()):
            if isinstance(module, Regularized) and module.recompute != "none":
                self._hooks.append(module.register_forward_hook(self._remember))
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()
        self._modes.__exit__(None, None, None)
        for block, tensors in self._recovering:
            if any(tensor._version != version for tensor, version in tensors):
                block.with_recompute("none")

    def _remember(self, block: nn.Module, inputs: tuple[Tensor, ...], y: Tensor) -> None:
        """Notes what a residue would be recovered from, to see whether it is overwritten later."""
        assert isinstance(block, Regularized)
        self._recovering.append((block, [(t, t._version) for t in (*inputs, y)]))

    def images(self, shape: Sequence[int]) -> Tensor:
        """Two images, so that a lost batch dimension shows."""
        with self._fake:
            return torch.empty(2, *shape, device=self._device, dtype=self._dtype)

    def follow(self, model: nn.Module, units: Sequence[Unit], shape: Sequence[int]) -> None:
        """Runs the model itself, and holds that its units run in order, with nothing in between.

        Raises:
            ValueError: it fails, its units run in another order, or what enters one is not what
                the one before returned.
        """
        kind = type(model).__name__
        ran = _Ran()
        hooks = [hook for name, unit in units for hook in ran.watch(name, unit)]
        images = self.images(shape)
        try:
            with self._fake, torch.no_grad():
                model(images)
        except Exception as error:
            raise ValueError(
                f"The layout of {kind} is held against a run of it on images {tuple(shape)}, which "
                f"fails with: {reason_of(error)} Check input_shape and its forward."
            ) from error
        finally:
            for hook in hooks:
                hook.remove()
        wanted = [name for name, _ in units]
        if ran.names != wanted:
            other = [pair for pair in zip(wanted, ran.names, strict=False) if len(set(pair)) == 2]
            what = (
                f"{other[0][1]!r} runs where the layout has {other[0][0]!r}"
                if other
                else f"{len(ran.names)} of the layout's {len(wanted)} layers run"
            )
            raise ValueError(
                f"A layout lists layers in the order of running, each once, but in {kind} {what}. "
                f"Correct its method `layout`."
            )
        before = "the images"
        given: tuple[object, int] = (images, images._version)
        for name, entered, left in zip(ran.names, ran.entered, ran.left, strict=True):
            if entered[0] is not given[0] or entered[1] != given[1]:
                raise ValueError(
                    f"Between the layers of a layout a model does nothing, because split runs the "
                    f"layers alone, but what enters {name!r} of {kind} is not {before} as they "
                    f"came. Make what happens there a layer, such as nn.Flatten or a module of "
                    f"your own, and name it in the layout."
                )
            before, given = f"the features of {name!r}", left

    def body(
        self, blocks: Sequence[Sequence[Unit]], x: Tensor, energy: str, owner: str, stem: int = 0
    ) -> tuple[Tensor, Body, int]:
        """Runs the blocks; returns the output, the body, and how many energies it reports.

        The first `stem` layers of the first block stand in front of it, and are not measured.
        """
        entered, entered_version = x, x._version
        units: list[Unit] = []
        spans: list[tuple[int, int]] = []
        measured: tuple[Tensor, int] | None = None  # the last measured output, and its version
        count = 0
        for number, block in enumerate(blocks):
            # where a block has composite layers, these are measured, and plain ones are not
            composite = any(is_composite(unit) for _, unit in block)
            front = 0 if composite or number else stem
            parts = [[pair] for pair in block] if composite else [block[:front], block[front:]]
            for place, part in enumerate(parts):
                if not part:
                    continue
                inputs, version, first = x, x._version, len(units)
                last, end = -1, (x, version)
                with collect_energy() as energies:
                    for name, unit in part:
                        x = self._unit(name, unit, x, owner)
                        self._check_measured(measured, name, owner)
                        if x.shape == inputs.shape:
                            last, end = len(units), (x, x._version)
                        units.append((name, unit))
                count += len(energies)
                weights = any(True for _, u in units[first : last + 1] for _ in u.parameters())
                whole = is_composite(part[0][1]) or not (composite or (front and place == 0))
                if energy == "displacement" and whole and weights and not len(energies):
                    self._check_kept(inputs, version, part[0][0], owner)
                    measured = end
                    self._check_measured(measured, units[-1][0], owner)
                    spans.append((first, last))
        if energy != "module":
            return x, Body(units, spans), count + len(spans)
        if x.shape != entered.shape:
            raise ValueError(
                f"energy='module' measures ‖T(x) − x‖² and needs modules that keep their shape, "
                f"but {owner} maps {tuple(entered.shape[1:])} to {tuple(x.shape[1:])}. Use "
                f"energy='residue' or 'displacement', split the stem off with encoder='stem', or "
                f"cut elsewhere."
            )
        self._check_kept(entered, entered_version, units[0][0], owner)
        return x, Body(units, [(0, len(units) - 1)]), 1

    def _check_kept(self, x: Tensor, version: int, name: str, owner: str) -> None:
        if x._version != version:
            raise ValueError(
                f"A displacement is measured from the input of a layer or module, which must stay "
                f"as it is, but {owner} changes that of {name!r} in place. Build the layers there "
                f"with inplace=False, or use energy='residue'."
            )

    def _check_measured(self, measured: tuple[Tensor, int] | None, name: str, owner: str) -> None:
        if measured is not None and measured[0]._version != measured[1]:
            raise ValueError(
                f"A layer may not change in place what a displacement was measured from, because "
                f"its gradient needs it, but {name!r} in {owner} does. Build it with inplace=False."
            )

    def _unit(self, name: str, unit: nn.Module, x: Tensor, owner: str) -> Tensor:
        try:
            with torch.no_grad(), untouched(unit), self._fake:
                y = unit(x)
        except Exception as error:
            reason = reason_of(error)
            if (line := own_code.place(error)) is not None:
                reason = f"{type(error).__name__}: {reason.removesuffix('.')} ({line})."
            raise ValueError(
                f"The shapes of {owner} cannot be inferred: its layer {name!r} "
                f"({type(unit).__name__}) fails on features {tuple(x.shape[1:])} with: {reason} "
                f"Check input_shape, and that the layers fit one another in this order."
            ) from error
        if not isinstance(y, Tensor) or y.dim() < 2 or y.shape[0] != x.shape[0]:
            got = f"shape {tuple(y.shape)}" if isinstance(y, Tensor) else type(y).__name__
            raise ValueError(
                f"The shapes of {owner} cannot be inferred: every layer must return one tensor "
                f"[N, *] of the same N, but {name!r} ({type(unit).__name__}) returns {got} for "
                f"N = {x.shape[0]}. Wrap it in a module that does."
            )
        return y

    def head(self, head: Head, shape: Shape, num_classes: int) -> nn.Module:
        """Builds and checks the head of module 0."""
        built = heads.build(head, shape, num_classes)
        self.check_head(built, shape, num_classes, "the encoder")
        return built

    def check_loss(self, loss: nn.Module, shape: Shape, images: Shape, owner: str) -> None:
        """Puts a local loss beside its module and holds that it gives one number."""
        loss.to(self._device, self._dtype)
        features = self.images(shape)
        version = features._version
        with self._fake:
            criterion = torch.zeros((), device=self._device, dtype=self._dtype)
            labels = torch.zeros(2, dtype=torch.long, device=self._device)
        try:
            with torch.no_grad(), only_dropout_trains(loss), untouched(loss), self._fake:
                found = loss(criterion, features, self.images(images), labels)
        except Exception as error:
            raise ValueError(
                f"A local loss takes (criterion [], features [N, *], images [N, *], labels [N]), "
                f"but that of {owner} ({type(loss).__name__}) fails on features {shape} with: "
                f"{reason_of(error)} Check the arguments of its forward, and the shapes of its "
                f"layers."
            ) from error
        if not isinstance(found, Tensor) or found.dim() != 0:
            got = f"shape {list(found.shape)}" if isinstance(found, Tensor) else repr(found)
            raise ValueError(
                f"A local loss must return a 0-dimensional tensor, but that of {owner} returned "
                f"{got}. Take the mean over the batch."
            )
        if features._version != version:
            raise ValueError(
                f"A local loss must leave the features as they are, because the next module gets "
                f"them too, but that of {owner} changes them in place. Build it with inplace=False."
            )

    def check_head(self, head: nn.Module, shape: Shape, num_classes: int, owner: str) -> None:
        """Puts the head beside its module and holds its logits against num_classes."""
        head.to(self._device, self._dtype)
        x = self.images(shape)
        version = x._version
        with only_dropout_trains(head):
            logits = self._unit("head", head, x, f"the head of {owner}")
        if x._version != version:
            raise ValueError(
                f"A head must leave the features as they are, because the next module gets them "
                f"too, but that of {owner} changes them in place. Build its first layers with "
                f"inplace=False."
            )
        if tuple(logits.shape[1:]) != (num_classes,):
            raise ValueError(
                f"A head must give logits [N, {num_classes}], but that of {owner} gives "
                f"{['N', *logits.shape[1:]]}. Build it for num_classes={num_classes}."
            )


class _Ran:
    """What enters and leaves layers, with the version that it has then, in the order of running."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.entered: list[tuple[object, int]] = []
        self.left: list[tuple[object, int]] = []

    def watch(self, name: str, unit: nn.Module) -> list[RemovableHandle]:
        def enter(_: nn.Module, inputs: tuple[object, ...], options: dict[str, object]) -> None:
            self.names.append(name)
            alone = len(inputs) == 1 and not options
            self.entered.append(_stamped(inputs[0] if alone else None))

        def leave(_: nn.Module, inputs: tuple[object, ...], output: object) -> None:
            self.left.append(_stamped(output))

        return [
            unit.register_forward_pre_hook(enter, with_kwargs=True),
            unit.register_forward_hook(leave),
        ]


def _stamped(value: object) -> tuple[object, int]:
    return value, value._version if isinstance(value, Tensor) else -1
