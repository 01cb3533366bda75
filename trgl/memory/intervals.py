"""What every run of consecutive blocks would keep for backward as a module, from few passes."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trgl_kernels import collect_energy

from ..recompute import recomputed
from .fake import Fakes
from .saved import SavedCounter, precision, tensors_of

_Storages = dict[int, int]  # bytes by address


class HeadBytes(NamedTuple):
    """What a head, the criterion and a local loss keep.

    Attributes:
        inner: bytes of their own.
        features: bytes of what enters the head, where they keep it.
        images: bytes of what enters the network, where they keep it.
        entering: whether the images are what enters the row, so that its first module has them.
    """

    inner: int = 0
    features: int = 0
    images: int = 0
    entering: bool = False


NO_HEAD = HeadBytes()


class Row:
    """A row of blocks on tensors without data, and the bytes of its runs.

    A module that begins with block m keeps what the blocks keep in the whole row, except that its
    first blocks, up to the first one with a weight that trains, need no gradient for what enters
    them. So one pass through the row, one more through each block and one through each head tell
    the bytes of all M·(M + 1)/2 modules exactly.

    Args:
        blocks: M modules from features to features; they are left as they are.
        x: what enters the first one, [N, *], made by `fakes`.
        fakes: that made x.
        energies: whether blocks report energies, which are then part of the loss.
        whole: the displacement of a module as a whole is part of the loss.
        autocast: bfloat16, float16 or None.
    """

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        x: Tensor,  # [N, *]
        fakes: Fakes,
        *,
        energies: bool,
        whole: bool = False,
        autocast: torch.dtype | None = None,
    ) -> None:
        self._fakes = fakes
        self._autocast = autocast
        self._energies = energies
        self._whole = whole
        self._counters: list[SavedCounter] = []  # they keep addresses from being given away
        self._blocks = [fakes.module(block).train() for block in blocks]
        self._features = [x]  # what enters block m
        self._inner: list[_Storages] = []
        for block in self._blocks:
            y, saved = self._run(block, self._features[-1])
            self._features.append(y)
            self._inner.append(saved)
        # bytes by first block and number of blocks, and whether they have what leaves the last one
        self._bodies = [self._grow(first) for first in range(len(blocks))]

    def bytes(self, first: int, stop: int, head: HeadBytes = NO_HEAD) -> int:
        """Bytes of a module of the blocks from `first` to `stop` − 1, and of its head's parts."""
        body, has_features = self._bodies[first][stop - first - 1]
        images = 0 if first == 0 and head.entering else head.images
        return body + head.inner + (0 if has_features else head.features) + images

    def head_parts(
        self,
        head: nn.Module,
        stop: int,
        *,
        trains: bool = True,
        recompute: bool = False,
        loss: nn.Module | None = None,
        images: Tensor | None = None,  # [N, *]
    ) -> HeadBytes:
        """Bytes of a head behind block `stop` − 1.

        Cross-entropy is the criterion. A head that does not train is in evaluation mode; one that
        is recomputed runs again in backward. A local loss is given the images.
        """
        x = self._features[stop]
        head = self._fakes.module(head).train(trains).requires_grad_(trains)
        counter = SavedCounter(tensors_of(head))
        local = None
        if loss is not None:
            assert images is not None
            local = self._fakes.module(loss).train()
            counter.ignore(tensors_of(local))
        with self._fakes.mode, precision(x, self._autocast), counter.watch():
            logits = recomputed(head, x) if recompute else head(x)
            labels = self._fakes.labels(x.shape[0], head)
            criterion = F.cross_entropy(logits, labels)
            if local is not None:
                local(criterion, x, images, labels)
        saved = counter.storages()
        features = saved.pop(_address(x), 0)
        if images is None:
            return HeadBytes(sum(saved.values()), features)
        kept = saved.pop(_address(images), 0)
        entering = _address(images) == _address(self._features[0])
        return HeadBytes(sum(saved.values()), features, kept, entering)

    def _run(self, module: nn.Module, x: Tensor) -> tuple[Tensor, _Storages]:
        counter = SavedCounter(tensors_of(module))
        self._counters.append(counter)
        with (
            self._fakes.mode,
            precision(x, self._autocast),
            counter.watch(),
            collect_energy() if self._energies else nullcontext(),
        ):
            y: Tensor = module(x)
        return y, counter.storages()

    def _grow(self, first: int) -> list[tuple[int, bool]]:
        x = self._features[first].detach()
        found: _Storages = {_address(x): x.untyped_storage().nbytes()}
        sizes = []
        for place in range(first, len(self._blocks)):
            y = self._features[place + 1]
            if x.requires_grad:
                found |= self._inner[place]
            else:
                x, saved = self._run(self._blocks[place], x)
                # for what follows, what leaves the block is what leaves it in the row
                same = {_address(x): _address(y)}
                found |= {same.get(address, address): size for address, size in saved.items()}
            alone = self._whole and _address(y) not in found
            if alone:  # nobody else keeps what the displacement is measured from
                found[_address(y)] = y.untyped_storage().nbytes()
            sizes.append((sum(found.values()), _address(y) in found))
            if alone:
                del found[_address(y)]
        return sizes


def _address(tensor: Tensor) -> int:
    address: int = tensor.untyped_storage()._cdata
    return address
