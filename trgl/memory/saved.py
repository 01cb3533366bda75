"""Bytes that autograd keeps for the backward pass, counted without computing anything.

A storage counts once, whoever keeps it and however often; parameters and buffers do not count. The
input of a module counts, because the caller holds it while the module trains.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trgl_kernels import collect_energy

from ..encoder import FrozenEncoder
from ..network import GreedyModule, GreedyNetwork
from .fake import Fakes

Criterion = Callable[[Tensor, Tensor], Tensor]
INPUT, BODY, HEAD = "input", "body", "head"


class SavedCounter:
    """Counts what autograd saves inside `with counter.watch():`.

    Real tensors and tensors without data are counted alike.

    Args:
        ignored: tensors whose storages do not count, such as parameters and buffers.

    Attributes:
        owner: to whom a storage that is saved for the first time is put down.
    """

    def __init__(self, ignored: Iterable[Tensor] = ()) -> None:
        self._ignored = {_key(tensor): tensor for tensor in ignored}
        self._storages: dict[int, tuple[str, torch.UntypedStorage]] = {}
        self.owner = BODY

    def ignore(self, tensors: Iterable[Tensor]) -> None:
        """Says of more tensors that their storages do not count."""
        self._ignored |= {_key(tensor): tensor for tensor in tensors}

    def hold(self, tensor: Tensor, owner: str) -> None:
        """Counts a tensor that is kept for another reason."""
        if _key(tensor) not in self._ignored:
            # the storage stays here, so that its address is not given to another one
            self._storages.setdefault(_key(tensor), (owner, tensor.untyped_storage()))

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Counts what is saved inside."""

        def pack(tensor: Tensor) -> Tensor:
            self.hold(tensor, self.owner)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            yield

    @property
    def total(self) -> int:
        """Bytes in all."""
        return sum(storage.nbytes() for _, storage in self._storages.values())

    def by_owner(self) -> dict[str, int]:
        """Bytes by owner, in the order in which they first saved something."""
        found: dict[str, int] = {}
        for owner, storage in self._storages.values():
            found[owner] = found.get(owner, 0) + storage.nbytes()
        return found

    def storages(self) -> dict[int, int]:
        """Bytes by storage."""
        return {key: storage.nbytes() for key, (_, storage) in self._storages.items()}


def _key(tensor: Tensor) -> int:
    address: int = tensor.untyped_storage()._cdata
    return address


@dataclass(frozen=True)
class SavedBytes:
    """What one module keeps for its backward pass, in bytes.

    Args:
        number: of the module; 0 is an encoder that trains.
        input: what enters the module.
        blocks: for every block, or layer outside of a block, its name and what it is the first to
            save; "body" has what the measured displacements add.
        head: what the head, the criterion and a local loss are the first to save.
    """

    number: int
    input: int
    blocks: tuple[tuple[str, int], ...]
    head: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.input + sum(size for _, size in self.blocks) + self.head


def count_network(
    network: GreedyNetwork,
    batch: int,
    *,
    penalty: bool = True,
    p: float = 2.0,
    autocast: torch.dtype | None = None,
    criterion: Criterion = F.cross_entropy,
) -> list[SavedBytes]:
    """Counts every module that trains, front to back, each in its own step.

    Args:
        network: in training mode or not; it is left as it is.
        batch: N ≥ 1.
        penalty: with the energies of the blocks; module 0 never has them.
        p: exponent of the energies.
        autocast: bfloat16, float16 or None.
        criterion: (logits, labels) -> 0-dim tensor.

    Raises:
        ValueError: the batch is no whole number of at least 1.
    """
    fakes = Fakes()
    x = entering(fakes, network, batch, autocast)
    images = images_for(fakes, network, x)
    found = []
    for number, module in network.trained:
        energies = penalty and number > 0
        saved, x = _count(fakes, module, x, images, number, energies, p, autocast, criterion)
        found.append(saved)
    return found


def count_whole(
    network: GreedyNetwork,
    batch: int,
    *,
    penalty: bool = False,
    p: float = 2.0,
    autocast: torch.dtype | None = None,
    criterion: Criterion = F.cross_entropy,
) -> SavedBytes:
    """Counts end-to-end training of the network with its last head; arguments as `count_network`.

    Raises:
        ValueError: the batch is no whole number of at least 1.
    """
    fakes = Fakes()
    x = entering(fakes, network, batch, autocast)
    return _count(fakes, network.whole(), x, x, 1, penalty, p, autocast, criterion)[0]


def count_module(
    module: GreedyModule,
    shape: Sequence[int],
    batch: int,
    *,
    number: int = 1,
    penalty: bool = True,
    p: float = 2.0,
    autocast: torch.dtype | None = None,
    criterion: Criterion = F.cross_entropy,
    images: Sequence[int] | None = None,
) -> SavedBytes:
    """Counts one module; other arguments as `count_network`.

    Args:
        module: in training mode or not; it is left as it is.
        shape: of one sample that enters it.
        batch: N ≥ 1.
        number: that the result is to bear.
        images: shape of one sample that enters the network, for a local loss; None is `shape`.

    Raises:
        ValueError: the batch is no whole number of at least 1.
    """
    check_batch(batch)
    fakes = Fakes()
    x = fakes.images(batch, shape, module)
    originals = x if images is None else fakes.images(batch, images, module)
    return _count(fakes, module, x, originals, number, penalty, p, autocast, criterion)[0]


def check_batch(batch: int) -> None:
    """Refuses what is no number of samples.

    Raises:
        ValueError: the batch is no whole number of at least 1.
    """
    if not isinstance(batch, int) or isinstance(batch, bool) or batch < 1:
        raise ValueError(
            f"batch must be a whole number of samples, at least 1, but got {batch!r}. Use batch=64."
        )


def entering(
    fakes: Fakes, network: GreedyNetwork, batch: int, autocast: torch.dtype | None
) -> Tensor:
    """What enters the first module that trains: the images, or what a frozen encoder makes of them.

    Raises:
        ValueError: the batch is no whole number of at least 1.
    """
    check_batch(batch)
    x = fakes.images(batch, network.input_shape, network)
    if isinstance(network.encoder, FrozenEncoder):
        encoder = fakes.module(network.encoder).eval()
        with fakes.mode, torch.no_grad(), precision(x, autocast):
            x = encoder(x)
    return x


def images_for(
    fakes: Fakes,
    network: GreedyNetwork,
    x: Tensor,  # [N, *]
) -> Tensor:  # [N, *input_shape]
    """The images of which `entering` made x: itself, unless a frozen encoder is in front."""
    if isinstance(network.encoder, FrozenEncoder):
        return fakes.images(x.shape[0], network.input_shape, network)
    return x


def precision(x: Tensor, autocast: torch.dtype | None) -> AbstractContextManager[Any]:
    """Autocast for the device of x, where it is asked for."""
    if autocast is None:
        return nullcontext()
    return torch.autocast(x.device.type, autocast)


def _count(
    fakes: Fakes,
    module: GreedyModule,
    x: Tensor,  # [N, *]
    images: Tensor,  # [N, *input_shape]
    number: int,
    penalty: bool,
    p: float,
    autocast: torch.dtype | None,
    criterion: Criterion,
) -> tuple[SavedBytes, Tensor]:  # and the features [N, *]
    module = fakes.module(module).train()
    names = module.body.names
    counter = SavedCounter(tensors_of(module))
    counter.hold(x, INPUT)

    def enter(owner: str) -> Callable[..., None]:
        def hook(*_: object) -> None:
            counter.owner = owner

        return hook

    # the hooks are on the copy, and on whole blocks: what is fused inside of one stays fused
    for name, unit in module.body.named_units():
        unit.register_forward_pre_hook(enter(f"unit {name}"))
        unit.register_forward_hook(enter(BODY))
    module.body.register_forward_hook(enter(HEAD))
    with ExitStack() as stack:
        for context in (fakes.mode, precision(x, autocast), counter.watch()):
            stack.enter_context(context)
        energies = stack.enter_context(collect_energy(p)) if penalty else None
        features, logits = module(x)
        labels = fakes.labels(x.shape[0], module)
        loss = criterion(logits, labels)
        if module.local_loss is not None:
            loss = module.local_loss(loss, features, images, labels)
        if energies is not None and len(energies):
            loss = loss + energies.total()
    bytes_of = counter.by_owner()
    blocks = [(name, bytes_of.get(f"unit {name}", 0)) for name in names]
    if BODY in bytes_of:
        blocks.append((BODY, bytes_of[BODY]))
    saved = SavedBytes(number, bytes_of.get(INPUT, 0), tuple(blocks), bytes_of.get(HEAD, 0))
    return saved, features.detach()


def tensors_of(module: nn.Module) -> list[Tensor]:
    """Parameters and buffers, whose storages never count."""
    return [*module.parameters(), *module.buffers()]
