"""Fetching a published data set: verified, and either there as a whole or not at all."""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import shutil
import tarfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from trgl.data.folders import read_tiny_imagenet
from trgl.data.published import FETCHABLE, File, Published, published

Progress = Callable[[str, int, int | None], None]
_WORKPLACE = ".trgl-fetch"
_TIMEOUT_SECONDS = 30.0
_CHUNK = 1 << 20
_AGENT = {"User-Agent": "trgl"}
_SCHEMES = ("http", "https", "file")
_FAILURES = (OSError, http.client.HTTPException)
_DAMAGES = (OSError, EOFError, tarfile.TarError, zipfile.BadZipFile, zlib.error, RuntimeError)


class FetchError(OSError):
    """A data set that could not be fetched; the message says what is left and what can be done."""


class _Other(Exception):
    """A file that arrived, and is not the published one."""


def fetch(
    name: str,
    directory: str | Path,
    *,
    mirror: str | None = None,
    progress: Progress = lambda name, received, total: None,
) -> Path:
    """Fetch a data set into a directory, where ``load`` finds it.

    Files arrive in a hidden folder of the directory and are moved to their places when their
    checksums are verified. The next fetch goes on with what one that was cut off left there. A data
    set that is there already is verified, and nothing is fetched.

    Args:
        name: one of ``FETCHABLE``.
        directory: made where it is not there.
        mirror: address of a folder with the published files under their own names, to be used in
            place of the published addresses: http, https or file.
        progress: called with the file's name, the bytes that have arrived and, where it is known,
            how many there will be.

    Returns:
        The folder that holds the data set.

    Raises:
        ValueError: another name, or a mirror that is no address.
        FetchError: no network, no such file, a wrong checksum, another fetch in the same
            directory, a file system without locks, or other files where the data set belongs.
    """
    if name not in FETCHABLE:
        raise ValueError(
            f"what can be fetched is {', '.join(FETCHABLE)}, received {name!r}; other data sets "
            "are read from where they are."
        )
    if mirror is not None and urlsplit(mirror).scheme not in _SCHEMES:
        raise ValueError(
            f"a mirror is the address of a folder and begins with http://, https:// or file://, "
            f"received {mirror!r}."
        )
    known = published(name)
    place = Path(directory) / known.folder
    try:
        with _workplace(Path(directory)) as work:
            missing = _missing(name, known, place)
            for file in missing:
                arrived = _arrive(file, work, mirror, progress)
                if known.packed:
                    _unpack(arrived, known, work, place)
                    arrived.unlink()
                else:
                    place.mkdir(parents=True, exist_ok=True)
                    arrived.replace(place / file.name)
    except FetchError as error:
        raise FetchError(f"{name} could not be fetched: {error}") from error
    except OSError as error:
        raise FetchError(f"{name} could not be fetched into {directory}: {error}") from error
    return place


@contextmanager
def _workplace(directory: Path) -> Iterator[Path]:
    """The hidden folder, for this process alone; it is removed when nothing is left in it."""
    work = directory / _WORKPLACE
    work.mkdir(parents=True, exist_ok=True)
    lock = work / "lock"
    with lock.open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FetchError(
                f"another process fetches into {directory} now; wait until it is done."
            ) from error
        except OSError as error:
            raise FetchError(
                f"the file system of {directory} does not lock files ({_reason(error)}), which "
                "keeps two fetches apart; fetch into a directory on another file system, e.g. a "
                "local disk, and move the data set from there."
            ) from error
        try:
            yield work
        finally:
            if not any(path != lock for path in work.iterdir()):
                lock.unlink()
                work.rmdir()


def _missing(name: str, known: Published, place: Path) -> list[File]:
    """What has to be fetched.

    Raises:
        FetchError: there is something else where the data set belongs.
    """
    if not known.packed:
        there = [file for file in known.files if (place / file.name).exists()]
        for file in there:
            _check_there(place / file.name, file.md5)
        return [file for file in known.files if file not in there]
    if not place.exists():
        return list(known.files)
    for inner, md5 in known.inside.items():
        _check_there(place / inner, md5)
    if name == "tiny-imagenet":  # its files have no published checksums, but there must be all
        try:
            sizes = [len(part) for part in _labels(place)]
        except ValueError as error:
            raise _occupied(place, str(error)) from error
        if sizes != [100_000, 10_000]:
            raise _occupied(place, f"it has {sizes[0]} training and {sizes[1]} validation images")
    return []


def _labels(place: Path) -> tuple[list[int], list[int]]:
    images = read_tiny_imagenet(place)
    return images.y_train.tolist(), images.y_test.tolist()


def _check_there(path: Path, md5: str) -> None:
    if not path.is_file():
        raise _occupied(path.parent, f"{path.name} is missing")
    if _md5(path) != md5:
        raise _occupied(path, "its checksum is another one")


def _occupied(path: Path, reason: str) -> FetchError:
    return FetchError(
        f"{path} is there, but is not what was published ({reason}). Move it away, or choose "
        "another directory."
    )


def _md5(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _arrive(file: File, work: Path, mirror: str | None, progress: Progress) -> Path:
    """Fetch one file and verify it."""
    addresses = file.addresses if mirror is None else (f"{mirror.rstrip('/')}/{file.name}",)
    path = work / f"{file.name}.part"
    failures = []
    for address in addresses:
        try:
            resumed = path.exists()
            try:
                _download(address, path, file, progress)
            except _Other:
                if not resumed:
                    raise
                _download(address, path, file, progress)  # what was there was of something else
            return path
        except _Other as error:
            failures.append(f"{address}: {error}")
        except _FAILURES as error:
            failures.append(f"{address}: {_reason(error)}")
            if isinstance(error, urllib.error.HTTPError):
                error.close()
    rest = " What has arrived is kept, and the next attempt goes on from there."
    raise FetchError(
        f"{'; '.join(failures)}. Check the network and the proxy (http_proxy, https_proxy), or "
        f"name another address that has {file.name} (--mirror).{rest if path.exists() else ''}"
    )


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.URLError) and not isinstance(error, urllib.error.HTTPError):
        return str(error.reason)
    return str(error) or type(error).__name__


def _download(address: str, path: Path, file: File, progress: Progress) -> None:
    """Fetch a file, from the byte on that is missing, and verify it.

    Raises:
        _Other: it is not the published file; it is removed then.
        OSError, http.client.HTTPException: the network, or the disk.
    """
    start = path.stat().st_size if path.exists() else 0
    wanted = {"Range": f"bytes={start}-"} if start else {}
    request = urllib.request.Request(address, headers=_AGENT | wanted)
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as response:
            if response.status != http.HTTPStatus.PARTIAL_CONTENT:
                start = 0  # the server gives the whole
            length = response.headers.get("Content-Length")
            total = None if length is None else start + int(length)
            received = start
            with path.open("r+b" if start else "wb") as stream:
                stream.seek(start)
                while chunk := response.read(_CHUNK):
                    stream.write(chunk)
                    received += len(chunk)
                    progress(file.name, received, total)
            if total is not None and received < total:
                raise ConnectionError(f"the connection ended after {received:,} of {total:,} bytes")
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        error.close()  # there is nothing left to fetch, or something else is here
    digest = _md5(path)
    if digest != file.md5:
        path.unlink()
        raise _Other(f"its MD5 is {digest}, but that of the published file {file.md5}")


def _unpack(archive: Path, known: Published, work: Path, place: Path) -> None:
    staging = work / "unpacked"
    shutil.rmtree(staging, ignore_errors=True)
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as packed:
                packed.extractall(staging)
        else:
            with tarfile.open(archive) as packed_tar:
                packed_tar.extractall(staging, filter="data")
        for file, md5 in known.inside.items():
            _check_there(staging / known.folder / file, md5)
        (staging / known.folder).replace(place)
    except _DAMAGES as error:
        raise FetchError(f"{known.files[0].name} could not be unpacked: {error}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
