"""ModuleBoundary: one module's step on one batch, after which only what crosses is left."""

import gc
import threading
import warnings
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from . import opened, search
from .counters import BoundaryWarning, Bytes, Counters, Fields, Held, add, report
from .memory import BoundaryError, cuda_index, scope_class
from .protection import (
    all_of,
    forget_autocast_copies,
    of_modules,
    of_optimizers,
    of_process,
    parts,
    storage_keys,
)
from .release import check_made_inside, described
from .schedule import Schedule

FINDS = ("sampled", "always", "never")


class ModuleBoundary:
    """The scope of one module's step on one batch; opened again for each batch.

        boundary = ModuleBoundary("module 3", [module], [optimizer])
        for x, labels in batches:
            with boundary:
                y = train_step(module, optimizer, x, labels)
                x = boundary.cross(y)

    When the scope closes, every storage that was made inside is gone, except what crosses. What
    reference counting frees, it frees. What something still holds is found, reported, and
    released: its memory returns to the allocator, and any later touch raises a RuntimeError that
    names the boundary. Storages of at most 4 KiB stay readable. Never touched: what existed before,
    parameters, buffers, gradients, optimizer state (also made inside), energies of collectors that
    are open around the scope, what crosses, what `keep` was told of, and whatever shares storage
    with these.

    Finding watches every operator, which costs 3 to 22 % of a step of tiny ones. It runs in the
    first two steps, in one of 128 after that, and after a step whose counters disagree with what
    should have died. On CPU such a step is also searched at once, through Python.

    Attributes:
        held: what was still held when the scope last closed.

    Args:
        name: for errors, warnings and reports, such as "module 3".
        modules: whose parameters, buffers and gradients are protected.
        optimizers: whose state is protected.
        find: "sampled" as above, "always" or "never".
        release: whether what is found is released, or only reported.
        poison: fill released memory with NaN first, for debugging: a pointer that torch does not
            know of (DLPack) reads NaN then, as long as nobody else has the memory.

    Raises:
        BoundaryError: an unknown `find`; modules or optimizers that are none; opened twice; closed
            out of order; `cross` or `keep` outside the scope; copied or pickled.
    """

    def __init__(
        self,
        name: str,
        modules: Sequence[nn.Module] = (),
        optimizers: Sequence[Optimizer] = (),
        *,
        find: str = "sampled",
        release: bool = True,
        poison: bool = False,
    ) -> None:
        if find not in FINDS:
            raise BoundaryError(
                f"find must be one of {', '.join(FINDS)}; received {find!r}. Leave it out for "
                f"'sampled'."
            )
        self.name = name
        self.modules = all_of("modules", modules, nn.Module)
        self.optimizers = all_of("optimizers", optimizers, Optimizer)
        self.find = find
        self.release = release
        self.poison = poison
        self._counts: Fields = (0, 0, 0, 0, 0, 0)
        self._sums: Fields = (0, 0, 0, 0, 0, 0)
        self._crossed_bytes = 0
        self.held: tuple[Held, ...] = ()
        self._schedule = Schedule()
        self._entered = threading.Lock()
        self._scope: Any = None
        self._parameter = next((p for m in self.modules for p in m.parameters()), None)
        self._before: set[int] | None = None  # without the extension: the storages from before
        self._device = -1  # of CUDA
        self._owned_before = 0  # bytes there of the modules' and optimizers', when last looked at
        self._around: ModuleBoundary | None = None
        self._inside: list[ModuleBoundary] = []
        self._crossed: list[Tensor] = []
        self._kept: list[Tensor] = []
        self._warned = self._finding = False

    @property
    def last(self) -> Counters:
        """Counters of the last step."""
        return Counters(*self._counts)

    @property
    def total(self) -> Counters:
        """Counters of all steps."""
        return Counters(*self._sums)

    def __reduce_ex__(self, protocol: object) -> str:
        raise BoundaryError(
            f"A boundary belongs to its process, where it counts memory and protects the modules "
            f"it was given, so it is never copied or pickled; received {self.name!r}. Leave it out "
            f"and make another one there."
        )

    def __enter__(self) -> Self:
        if not self._entered.acquire(blocking=False):
            raise BoundaryError(
                f"A boundary has one scope open at a time, but that of {self.name!r} is open "
                f"already. Make a boundary for each thread and each level."
            )
        try:
            self._around = current()
            self._crossed_bytes = 0
            find = self.find == "always" or (self.find == "sampled" and self._schedule.finds())
            native_scope = scope_class()
            if native_scope is not None:
                self._device = cuda_index(self._parameter)
                self._scope = native_scope(self._device, find)
                if find:
                    self._note_owned(self._scope)
            elif find:
                self._before = search.python_storages()
            self._finding = find
            opened.push(self)
        except BaseException:  # an interrupt: it can be opened again
            opened.pop(self)
            self._scope = self._before = self._around = None
            self._entered.release()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not opened.pop(self):
            raise BoundaryError(
                f"Boundaries close innermost first and in the thread that opened them, but that of "
                f"{self.name!r} is not the innermost of this thread. Use with statements."
            )
        self.held = ()
        try:
            if self._scope is not None:
                with torch._C.DisableTorchFunctionSubclass():  # what is given to compiled code
                    self._close(self._scope, error is not None)
            elif self._before is not None:
                self.held = search.found_by_python(self._before, self._protected())
            self._schedule.steps += 1
            if self._around is not None:  # what outlives this scope outlives those around it
                self._around._kept += self._kept
                self._around._inside.append(self)
        finally:
            self._scope = self._before = self._around = None
            self._crossed, self._kept, self._inside = [], [], []
            self._entered.release()
        if self.held and error is None and not self._warned:
            self._warned = True
            warnings.warn(BoundaryWarning(report(self.name, self.held)), stacklevel=2)

    def cross(
        self,
        y: Tensor,  # [N, *]
    ) -> Tensor:  # [N, *]
        """The tensor for the next module: detached, a leaf, and all that is left of this one.

        A view of a larger storage that was made inside is copied, so that only it crosses. Sparse
        tensors and subclasses that wrap others cross with all that they consist of.
        """
        self._check_open("cross", y)
        leaf = y.detach()
        pieces = parts(leaf)
        if 0 in storage_keys(pieces):
            raise BoundaryError(
                f"cross takes a tensor whose memory torch knows; received {described(y)} and "
                f"layout {y.layout}. Convert it with to_dense()."
            )
        if pieces[0] is leaf:
            bytes_alone = leaf.numel() * leaf.element_size()
            part = bytes_alone < leaf.untyped_storage().nbytes()
            if part and (self._scope is None or self._scope.made([leaf])[0] != 0):
                leaf = leaf.clone()
                pieces = [leaf]
        crossed = set(storage_keys(self._crossed))
        for piece, key in zip(pieces, storage_keys(pieces), strict=True):
            if key not in crossed:
                crossed.add(key)
                self._crossed_bytes += piece.untyped_storage().nbytes()
        self._crossed += pieces
        return leaf

    def keep(
        self,
        t: Tensor,  # any shape
    ) -> Tensor:
        """Says that a tensor made inside is meant to live; returns it.

        Its storage stays, that of a view as a whole. The graph behind it does not: keep what is
        detached, or differentiate before the scope closes.
        """
        self._check_open("keep", t)
        self._kept += parts(t)
        return t

    def check_own(self, tensors: tuple[Tensor, ...]) -> None:
        """Refuses what was not made inside, or is meant to outlive the scope.

        Raises:
            BoundaryError: naming the tensor.
        """
        with torch._C.DisableTorchFunctionSubclass():
            made = self._scope.made(list(tensors))
        check_made_inside(self.name, tensors, made, set(storage_keys(self._protected())))

    def _check_open(self, what: str, t: object) -> None:
        if not self._entered.locked():
            raise BoundaryError(
                f"{what} belongs inside the scope, but that of {self.name!r} is not open. Call it "
                f"in the with statement."
            )
        if not isinstance(t, Tensor):
            raise BoundaryError(
                f"{what} takes a tensor; received {type(t).__name__}. Pass tensors one by one."
            )

    def _protected(self) -> Iterator[Tensor]:
        yield from self._crossed
        yield from self._kept
        yield from self._owned()
        for boundary in self._inside:
            yield from boundary._owned()
        around = self._around
        while around is not None:  # its `keep` and `cross` may have been given what was made here
            yield from around._crossed
            yield from around._kept
            around = around._around

    def _owned(self) -> Iterator[Tensor]:
        yield from of_modules(self.modules)
        yield from of_optimizers(self.optimizers)
        yield from of_process()

    def _left(self, scope: Any, protected: list[Tensor]) -> Bytes:
        """What lives and should not, as far as the counters know.

        On CUDA they do not know which storages are new. Of what the boundary's owners have now,
        what they had before is no part of the growth.
        """
        counts = Bytes._make(scope.bytes(protected))
        return counts._replace(device_unexplained=counts.device_unexplained + self._owned_before)

    def _note_owned(self, scope: Any) -> None:
        """Notes the bytes on CUDA of what the boundary's owners have."""
        if self._device >= 0:
            counts = Bytes._make(scope.bytes(list(self._owned())))
            self._owned_before = counts.device_growth - counts.device_unexplained

    def _close(self, scope: Any, failed: bool) -> None:
        counted = Bytes._make(scope.close(self._crossed + self._kept))
        forced = 0
        # first less what every step leaves behind, then less all that it may leave
        if self._finding or (self.find != "never" and (counted.disagree or failed)):
            forget_autocast_copies()
            protected = list(self._protected())
            left = self._left(scope, protected)
            if left.disagree and not self._warned and not failed and self._schedule.hears():
                gc.collect()  # what only a cycle holds is worth no warning
                before, left = left, self._left(scope, protected)
                forced = before.unexplained - left.unexplained
            if self._finding or failed or (left.disagree and self._schedule.hears()):
                message = f"boundary {self.name!r}: {_RELEASED}"
                self.held, released = search.search(
                    scope, protected, message, self, lambda: self._left(scope, protected)
                )
                forced += released
                if self.held or left.disagree:
                    self._schedule.alarm(bool(self.held), self._finding)
            self._note_owned(scope)
        self._counts = counted.counters(forced, self._crossed_bytes)
        self._sums = add(self._sums, self._counts)


_RELEASED = (
    "this tensor was made in its step, and was released when that ended. Copy what is needed "
    "before the end, or say boundary.keep(tensor)"
)


def current() -> ModuleBoundary | None:
    """The innermost boundary that is open in this thread: for hooks that keep something."""
    boundary = opened.innermost()
    return boundary if isinstance(boundary, ModuleBoundary) else None
