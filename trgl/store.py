"""Rows of features in memory or in a file, found by what they were computed from."""

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

MEMORY = "memory"
Place = str | os.PathLike[str]  # MEMORY, or a directory


class Rows:
    """Up to `count` samples of features, in memory or in a file that is mapped into it.

    The file has no name once it is open, so that nobody ever sees a half-written one, and the
    system takes its space back when the run ends, however it ends. All of its space is taken at
    once: a disk that runs full later harms nothing that was written.

    Args:
        count: samples that fit.
        like: features [N, *] of any N: shape, type, memory layout and device of what `get` gives.
        place: "memory", or the directory of the file.

    Raises:
        OSError: the file cannot be made, or the disk does not take it.
        RuntimeError: there is not enough memory.
    """

    def __init__(
        self,
        count: int,
        like: Tensor,  # [N, *]
        place: Place,
    ) -> None:
        self._device = like.device
        self._order = _order(like)
        self._shape = tuple(like.shape[1:])
        shape = (count, *like[:1].permute(self._order).shape[1:])
        if place == MEMORY:
            self._rows: Tensor | None = torch.empty(shape, dtype=like.dtype)
        else:
            self._rows = _mapped(shape, like.dtype, Path(place))
        self._places: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._places)

    def missing(self, keys: Sequence[bytes]) -> list[int]:
        """Positions of the keys that are not there, each key once."""
        return [at for at in first(keys) if keys[at] not in self._places]

    def full(self, more: int) -> bool:
        """Whether `more` samples do not fit any more."""
        assert self._rows is not None
        return len(self._places) + more > len(self._rows)

    def put(
        self,
        keys: Sequence[bytes],
        features: Tensor,  # [N, *]
    ) -> None:
        """Adds samples under keys that are not there and differ."""
        assert self._rows is not None
        assert tuple(features.shape[1:]) == self._shape
        assert features.dtype == self._rows.dtype
        start = len(self._places)
        self._rows[start : start + len(keys)].copy_(features.permute(self._order))
        self._places.update((key, start + offset) for offset, key in enumerate(keys))

    def get(self, keys: Sequence[bytes]) -> Tensor:  # [N, *]
        """The samples of keys that are there, on the device and in the layout of `like`."""
        assert self._rows is not None
        chosen = self._rows[torch.tensor([self._places[key] for key in keys])]
        back = sorted(range(len(self._order)), key=self._order.__getitem__)
        return chosen.to(self._device).permute(back)

    def close(self) -> None:
        """Gives memory or file back; nothing can be read any more."""
        self._rows = None
        self._places = {}


def first(keys: Sequence[bytes]) -> list[int]:
    """The positions at which a key stands for the first time."""
    positions: dict[bytes, int] = {}
    for at, key in enumerate(keys):
        positions.setdefault(key, at)
    return list(positions.values())


def empty_rows(
    piece: Tensor,  # [n, *]
    count: int,
) -> Tensor:  # [count, *]
    """An uninitialized tensor of `count` samples in the layout of `piece`."""
    shape = (count, *piece.shape[1:])
    if piece.stride(0) == piece[:1].numel():
        return torch.empty_strided(shape, piece.stride(), dtype=piece.dtype, device=piece.device)
    return piece.new_empty(shape)


def take(
    x: Tensor,  # [N, *]
    positions: Tensor,  # [n]
) -> Tensor:  # [n, *]
    """The samples at these positions, in the layout of x."""
    return empty_rows(x, len(positions)).copy_(x[positions.to(x.device)])


def row_bytes(
    like: Tensor,  # [N, *]
) -> int:
    """Bytes of one sample."""
    return like[:1].numel() * like.element_size()


# a control group's limit and use, of both versions of Linux's control groups
GROUPS = (
    (Path("/sys/fs/cgroup"), "memory.max", "memory.current"),
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes"),
)


def check_place(place: object) -> None:
    """Holds that features can be kept there.

    Raises:
        ValueError: neither "memory" nor a directory that can be written to.
    """
    if place == MEMORY:
        return
    if not isinstance(place, str | os.PathLike) or not str(place):
        raise ValueError(
            f"cache must be None, 'memory' or a directory for a file, but got {place!r}."
        )
    path = Path(place)
    if not path.is_dir() or not os.access(path, os.W_OK | os.X_OK):
        raise ValueError(
            f"cache must be 'memory' or a directory that exists and can be written to, but "
            f"{str(path)!r} is not. Make it, or choose another."
        )


def check_room(place: Place, needed: int, what: str) -> None:
    """Holds that `needed` bytes fit there, as far as the system says what is free.

    Raises:
        ValueError: they do not.
    """
    in_memory = place == MEMORY
    free = available_memory() if in_memory else shutil.disk_usage(place).free
    if free is not None and needed > free:
        other = "a directory on a disk" if in_memory else "another directory or 'memory'"
        where = "of memory" if in_memory else f"in {str(place)!r}"
        raise ValueError(
            f"A cache must fit where it is kept, but {what} take up to {_size(needed)}, and "
            f"{_size(free)} {where} are free. Give {other} as cache, or cache=None."
        )


def available_memory() -> int | None:
    """Bytes that this process can still take, its control group's limit included; None: unknown."""
    found = []
    try:
        fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        found.append(int(fields["MemAvailable"].split()[0]) * 1024)
    except (OSError, KeyError, ValueError):
        pass
    for folder, limit, used in GROUPS:
        try:
            left = int((folder / limit).read_text()) - int((folder / used).read_text())
        except (OSError, ValueError):  # no such file, or "max"
            continue
        found.append(max(0, left) + _cached(folder / "memory.stat"))
    return min(found, default=None)


def _cached(stat: Path) -> int:
    """Of what a control group uses, the files that the system kept and can drop at once."""
    try:
        fields = dict(line.split() for line in stat.read_text().splitlines())
    except (OSError, ValueError):
        return 0
    return int(fields.get("total_inactive_file", fields.get("inactive_file", 0)))


def _order(
    like: Tensor,  # [N, *]
) -> list[int]:
    """The dimensions from the outermost in memory to the innermost, the samples first."""
    return [0, *sorted(range(1, like.dim()), key=lambda d: -like.stride()[d])]


def _mapped(shape: tuple[int, ...], dtype: torch.dtype, directory: Path) -> Tensor:
    count = 1
    for size in shape:
        count *= size
    handle, name = tempfile.mkstemp(dir=directory, prefix=".trgl-features-")
    try:
        _reserve(handle, count * dtype.itemsize)
        return torch.from_file(name, shared=True, size=count, dtype=dtype).view(shape)
    finally:
        os.unlink(name)
        os.close(handle)


def _reserve(handle: int, size: int) -> None:
    """Takes the space of a file now: a mapped page without space would end the process."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(handle, 0, size)
        return
    block = bytes(1 << 20)
    for start in range(0, size, len(block)):
        os.write(handle, block[: size - start])


def _size(count: int) -> str:
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count / 1024:.1f} KiB"
