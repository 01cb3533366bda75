"""What stands frozen in front of the modules that train: run in small passes, or remembered."""

import warnings
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from trgl_kernels import ModuleBoundary

from .accidents import frozen_memory_error, naming_memory
from .digests import fingerprints, generators, keys_of
from .encoder import FrozenEncoder
from .network import GreedyNetwork
from .row_sizes import sizes_after
from .step import LocalStep
from .store import Place, Rows, check_place, check_room, empty_rows, first, take

Unit = tuple[nn.Module, Callable[[Tensor], Tensor]]


class FrozenFront:
    """Features that the first module in training takes: what all before it make of the images.

    x = T_{k-1}(… T_1(encoder(images))), without a gradient, in evaluation mode

    With `chunk` smaller than a batch every pass has exactly so many samples, the last one filled
    up, so that what comes out for an image does not depend on the batch that it came in. Features
    are remembered by the content of the image: the order of the images may change from epoch to
    epoch. Without such a chunk those of a batch come from a pass of the batch's size, cached ones
    too: batches of another size than the first one are computed each time. Both make the
    training with a cache that without it, bit by bit, where a layer's result for a sample depends
    neither on its neighbours in the pass nor on its place there.

    Args:
        network: from `trgl.split`.
        steps: of its modules, front to back.
        chunk: samples in one pass through the frozen modules; None takes a batch as it is.
        cache: None, "memory" or a directory.
        bring: called with modules before they run.

    Raises:
        ValueError: chunk or cache is something else.
    """

    def __init__(
        self,
        network: GreedyNetwork,
        steps: Sequence[LocalStep],
        chunk: int | None = None,
        cache: Place | None = None,
        bring: Callable[[Iterable[nn.Module]], None] = lambda modules: None,
    ) -> None:
        if chunk is not None and (
            not isinstance(chunk, int) or isinstance(chunk, bool) or chunk < 1
        ):
            raise ValueError(
                f"chunk must be a whole number of samples, at least 1, or None, but got {chunk!r}."
            )
        if cache is not None:
            check_place(cache)
        self.network = network
        self.steps = steps
        self.chunk = chunk
        self.cache = cache
        self.bring = bring
        self.passing = ModuleBoundary(
            "encoder", [] if network.encoder is None else [network.encoder]
        )
        self._samples = 0  # 0: nothing is remembered
        self.batch: int | None = None
        self._levels: dict[int, tuple[bytes, Rows]] = {}  # by how many units they come after
        self._units: list[Unit] = []
        self._prints: list[bytes] = []

    def units(self, active: Sequence[int]) -> list[Unit]:
        """What is frozen in front of the first of the modules `active`."""
        encoder = self.network.encoder
        front: list[Unit] = []
        if isinstance(encoder, FrozenEncoder):
            front.append((encoder, self._encode))
        return front + [
            (step.module.body, step.skip) for step in self.steps if step.number < min(active)
        ]

    def check(self, phases: Sequence[Sequence[int]]) -> None:
        """Holds that a chunk is of use.

        Args:
            phases: the modules that train in every epoch.

        Raises:
            ValueError: there is a chunk, and nothing is frozen.
        """
        if self.chunk is not None and not max(self._depths(phases)):
            raise ValueError(
                f"A chunk is what passes through frozen modules at a time, but got "
                f"chunk={self.chunk} and nothing is frozen in front of modules that train in this "
                f"run. Leave it out, or use a sequential regime with several modules, or a frozen "
                f"encoder."
            )

    def _depths(self, phases: Sequence[Sequence[int]]) -> list[int]:
        return [len(self.units(active)) for active in phases]

    def open(self, phases: Sequence[Sequence[int]], samples: int | None) -> None:
        """Begins a run.

        Args:
            phases: the modules that train in every epoch.
            samples: in the training set; None if it does not say.

        Raises:
            ValueError: a cache that never would remember anything, or that cannot be as large as
                it would have to be.
        """
        self.close()
        if self.cache is None:
            return
        depths = self._depths(phases)
        if not max(depths):
            raise ValueError(
                "A cache holds what frozen modules make of the images, but nothing is frozen in "
                "front of modules that train in this run. Use cache=None, a sequential regime with "
                "several modules, or a frozen encoder."
            )
        if samples is None:
            raise ValueError(
                "A cache needs to know how many images the training set holds, but the loader does "
                "not say. Use a DataLoader over a dataset with a length, trgl.data.Batches or a "
                "list of batches, or cache=None."
            )
        deepest = self.units(phases[depths.index(max(depths))])
        sizes = [0, *sizes_after(self.network, [run for _, run in deepest])]
        # the features of one phase are made from those of the phase before
        pairs = zip([0, *depths], depths, strict=False)
        largest = max(sizes[at] + (sizes[before] if before < at else 0) for before, at in pairs)
        check_room(self.cache, samples * largest, f"the features of {samples} images")
        self._samples = samples

    def begin(self, active: Sequence[int]) -> None:
        """Begins an epoch in which the modules `active` train."""
        self._units = self.units(active)
        if not self._samples:
            return
        self._prints = fingerprints([module for module, _ in self._units])
        for at, (fingerprint, rows) in list(self._levels.items()):
            if at > len(self._units) or fingerprint != self._prints[at]:
                rows.close()
                del self._levels[at]

    def end(self) -> None:
        """Ends an epoch: all images have been seen, and only their last features stay."""
        for at in sorted(self._levels)[:-1]:
            self._levels.pop(at)[1].close()

    def close(self) -> None:
        """Ends a run: nothing is remembered any more."""
        for _, rows in self._levels.values():
            rows.close()
        self._levels = {}
        self._samples, self.batch = 0, None

    @torch.no_grad()
    def __call__(
        self,
        images: Tensor,  # [N, *]
    ) -> Tensor:  # [N, *]
        """The features of a batch."""
        if self.batch is None:
            self.batch = images.shape[0]
        if not self._units:
            return images
        if not self._samples:
            return self._run(images, 0)
        keys = keys_of(images)
        here = len(self._units)
        _, rows = self._levels.get(here, (b"", None))
        missing = first(keys) if rows is None else rows.missing(keys)
        serves = self._chunked or len(keys) == self.batch
        if serves and rows is not None and not missing:
            return rows.get(keys)
        x, at = images, 0
        for level, (_, below) in sorted(self._levels.items()):
            if serves and level < here and not below.missing(keys):
                x, at = below.get(keys), level
        before = generators(images.device)
        features = self._run(x, at)
        after = generators(images.device)
        if not all(torch.equal(a, b) for a, b in zip(before, after, strict=True)):
            self._give_up("a frozen module draws random numbers in evaluation mode")
        elif missing:
            self._remember(keys, missing, images, features if serves else None)
        return features

    def _remember(
        self,
        keys: Sequence[bytes],
        missing: Sequence[int],
        images: Tensor,  # [N, *]
        features: Tensor | None,  # [N, *]
    ) -> None:
        """Keeps what is missing; features None: computes it in a pass of the usual size."""
        here = len(self._units)
        if features is None:
            assert self.batch is not None
            self.bring(module for module, _ in self._units)
            features = self._pieces(take(images, torch.tensor(missing)), 0, self.batch)
            positions = list(range(len(missing)))
        else:
            positions = list(missing)
        if here not in self._levels:
            try:
                assert self.cache is not None
                rows = Rows(self._samples, features, self.cache)
            except (OSError, RuntimeError) as error:
                self._give_up(f"there is no room for the features: {error}")
                return
            self._levels[here] = (self._prints[here], rows)
        _, rows = self._levels[here]
        if rows.full(len(missing)):
            self._give_up(
                f"the training set says that it holds {self._samples} images, and gave more "
                f"different ones, as random augmentation does"
            )
            return
        rows.put([keys[position] for position in missing], features[positions])

    def _give_up(self, reason: str) -> None:
        samples = self.batch
        self.close()
        self.batch = samples
        warnings.warn(
            f"The cache of features is given up, and they are computed in every epoch: {reason}.",
            stacklevel=2,
        )

    @property
    def _chunked(self) -> bool:
        return self.chunk is not None and self.batch is not None and self.chunk < self.batch

    def _run(
        self,
        x: Tensor,  # [N, *]
        at: int,
    ) -> Tensor:  # [N, *]
        """What the units from `at` on make of x."""
        self.bring(module for module, _ in self._units[at:])
        if self._chunked:
            assert self.chunk is not None
            return self._pieces(x, at, self.chunk)
        for _, run in self._units[at:]:
            x = run(x)
        return x

    def _pieces(
        self,
        x: Tensor,  # [N, *]
        at: int,
        size: int,
    ) -> Tensor:  # [N, *]
        """The same in passes of exactly `size` samples, the last one filled up with copies."""
        out: Tensor | None = None
        for start in range(0, x.shape[0], size):
            piece = x[start : start + size]
            count = piece.shape[0]
            if count < size:
                piece = take(piece, torch.arange(size, device=x.device) % count)
            for _, run in self._units[at:]:
                piece = run(piece)
            if out is None:
                out = empty_rows(piece, x.shape[0])
            out[start : start + count] = piece[:count]
        assert out is not None
        return out

    def _encode(
        self,
        images: Tensor,  # [N, *]
    ) -> Tensor:  # [N, *]
        place = 0, images.device, images.shape[0]
        with naming_memory(lambda error: frozen_memory_error(error, *place)), self.passing:
            return self._pass(images)

    def _pass(self, images: Tensor) -> Tensor:
        assert isinstance(self.network.encoder, FrozenEncoder)
        with self.steps[0].precision():
            features: Tensor = self.network.encoder(images)
        return self.passing.cross(features)
