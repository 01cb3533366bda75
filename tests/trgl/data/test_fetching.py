"""Fetching from this machine: verified, resumed, and either there as a whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from local_server import Server
from tiny_sets import snapshot, write_cifar, write_mnist, write_tiny_imagenet

from trgl import data
from trgl.cli import main
from trgl.data.published import FETCHABLE, File, Published, published


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "served").mkdir()
    with Server(tmp_path / "served") as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def cifar(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> Published:
    """A tiny CIFAR-10 that is published on the server."""
    folder = write_cifar(tmp_path / "made")
    archive = server.folder / "cifar.tar.gz"
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(folder, folder.name)
    inside = {path.name: md5(path) for path in folder.iterdir()}
    file = File(archive.name, (server.address + archive.name,), md5(archive))
    return _publish(monkeypatch, Published(folder.name, (file,), True, inside))


def _publish(monkeypatch: pytest.MonkeyPatch, known: Published) -> Published:
    monkeypatch.setattr("trgl.data.fetching.published", lambda name: known)
    return known


def part_of(directory: Path) -> Path:
    return directory / ".trgl-fetch" / "cifar.tar.gz.part"


def test_an_archive_arrives_is_unpacked_and_read(
    tmp_path: Path, server: Server, cifar: Published, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "new" / "home"
    assert main(["fetch", "cifar10", "--to", str(home)]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith(f"cifar10 is in {home / cifar.folder}, verified")
    assert "cifar.tar.gz: " in captured.err
    assert [path.name for path in home.iterdir()] == [cifar.folder]  # nothing else is left
    assert len(data.load("cifar10", home).x_train) == 50
    before = snapshot(home)
    assert main(["fetch", "cifar10", "--to", str(home), "--quiet"]) == 0
    assert capsys.readouterr().err == ""
    assert len(server.asked) == 1
    assert snapshot(home) == before


@pytest.mark.parametrize("ranges", [True, False], ids=["ranges", "no-ranges"])
def test_what_was_cut_off_goes_on(
    tmp_path: Path, server: Server, cifar: Published, ranges: bool
) -> None:
    server.cut, server.ranges = 1000, ranges
    size = (server.folder / "cifar.tar.gz").stat().st_size
    with pytest.raises(data.FetchError, match=rf"after 1,000 of {size:,} bytes.*is kept"):
        data.fetch("cifar10", tmp_path)
    assert part_of(tmp_path).stat().st_size == 1000
    assert not (tmp_path / cifar.folder).exists()
    server.cut = None
    data.fetch("cifar10", tmp_path)
    assert server.asked[-1] == ("/cifar.tar.gz", "bytes=1000-")
    assert len(data.load("cifar10", tmp_path).x_train) == 50
    assert not part_of(tmp_path).parent.exists()


def test_an_interrupted_fetch_goes_on(
    tmp_path: Path,
    server: Server,
    cifar: Published,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("trgl.data.fetching._CHUNK", 4096)

    def interrupt(display: object, name: str, received: int, total: int | None) -> None:
        if received > 8000:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("trgl.cli.fetch._Display.update", interrupt)
        assert main(["fetch", "cifar10", "--to", str(tmp_path)]) == 130
    assert "interrupted" in capsys.readouterr().err
    assert part_of(tmp_path).stat().st_size == 8192
    assert main(["fetch", "cifar10", "--to", str(tmp_path)]) == 0
    assert server.asked[-1] == ("/cifar.tar.gz", "bytes=8192-")
    assert data.load("cifar10", tmp_path).num_classes == 10


@pytest.mark.parametrize("extra", [0, 7], ids=["complete", "too-long"])
def test_a_part_that_has_nothing_left_to_fetch(
    tmp_path: Path, server: Server, cifar: Published, extra: int
) -> None:
    part_of(tmp_path).parent.mkdir()
    part_of(tmp_path).write_bytes((server.folder / "cifar.tar.gz").read_bytes() + b"x" * extra)
    data.fetch("cifar10", tmp_path)
    assert len(server.asked) == (2 if extra else 1)
    assert data.load("cifar10", tmp_path).num_classes == 10


def test_a_part_of_something_else_starts_again(
    tmp_path: Path, server: Server, cifar: Published
) -> None:
    part_of(tmp_path).parent.mkdir()
    part_of(tmp_path).write_bytes(b"something else")
    data.fetch("cifar10", tmp_path)
    assert [wanted for _, wanted in server.asked] == ["bytes=14-", None]
    assert data.load("cifar10", tmp_path).num_classes == 10


def test_a_wrong_checksum_leaves_nothing(
    tmp_path: Path, server: Server, cifar: Published, capsys: pytest.CaptureFixture[str]
) -> None:
    (server.folder / "cifar.tar.gz").write_bytes(b"an error page")
    assert main(["fetch", "cifar10", "--to", str(tmp_path / "home")]) == 1
    error = capsys.readouterr().err
    assert f"that of the published file {cifar.files[0].md5}" in error
    assert "Traceback" not in error
    assert list((tmp_path / "home").iterdir()) == []


def test_the_next_address_is_tried(
    tmp_path: Path, server: Server, cifar: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    (file,) = cifar.files
    several = (server.address + "nothing.tar.gz", *file.addresses)
    _publish(
        monkeypatch,
        Published(cifar.folder, (File(file.name, several, file.md5),), True, cifar.inside),
    )
    data.fetch("cifar10", tmp_path)
    assert [path for path, _ in server.asked] == ["/nothing.tar.gz", "/cifar.tar.gz"]


def test_no_network_is_told(
    tmp_path: Path, server: Server, cifar: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    (file,) = cifar.files
    nobody = ("http://127.0.0.1:1/cifar.tar.gz",)
    _publish(monkeypatch, Published(cifar.folder, (File(file.name, nobody, file.md5),), True))
    with pytest.raises(data.FetchError, match=r"refused.*Check the network and the proxy"):
        data.fetch("cifar10", tmp_path)
    assert not (tmp_path / ".trgl-fetch").exists()


def test_a_mirror_is_a_folder(tmp_path: Path, server: Server, cifar: Published) -> None:
    for number, mirror in enumerate((server.folder.as_uri(), server.address)):
        home = tmp_path / str(number)
        data.fetch("cifar10", home, mirror=mirror)
        assert data.load("cifar10", home).num_classes == 10
    with pytest.raises(data.FetchError, match="No such file"):
        data.fetch("cifar10", tmp_path / "other", mirror=(tmp_path / "nowhere").as_uri())
    with pytest.raises(ValueError, match="begins with http"):
        data.fetch("cifar10", tmp_path, mirror="ftp://somewhere")


def test_what_is_there_is_verified_and_never_overwritten(
    tmp_path: Path, server: Server, cifar: Published
) -> None:
    folder = data.fetch("cifar10", tmp_path)
    path = folder / "data_batch_3"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    before = snapshot(tmp_path)
    with pytest.raises(data.FetchError, match=r"data_batch_3 is there, but .* Move it away"):
        data.fetch("cifar10", tmp_path)
    path.unlink()
    with pytest.raises(data.FetchError, match="data_batch_3 is missing"):
        data.fetch("cifar10", tmp_path)
    assert {name for name in before if name != str(path)} == set(snapshot(tmp_path))


def test_an_archive_that_leaves_its_place_is_refused(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    evil = tmp_path / "evil.txt"
    evil.write_text("x")
    archive = server.folder / "cifar.tar.gz"
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(evil, "../../escaped.txt")
    file = File(archive.name, (server.address + archive.name,), md5(archive))
    _publish(monkeypatch, Published("cifar-10-batches-py", (file,), True))
    with pytest.raises(data.FetchError, match="could not be unpacked"):
        data.fetch("cifar10", tmp_path / "a" / "b")
    assert not list(tmp_path.rglob("escaped.txt"))


def test_idx_files_come_one_by_one(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mnist(server.folder)
    files = tuple(
        File(path.name, (server.address + path.name,), md5(path))
        for path in sorted(server.folder.iterdir())
    )
    _publish(monkeypatch, Published("MNIST/raw", files, packed=False))
    last = server.folder / files[-1].name
    content = last.read_bytes()
    last.unlink()
    with pytest.raises(data.FetchError, match="404"):
        data.fetch("mnist", tmp_path / "home")
    last.write_bytes(content)
    server.asked.clear()
    data.fetch("mnist", tmp_path / "home")
    assert [path for path, _ in server.asked] == [f"/{last.name}"]  # the others were there
    assert len(data.load("mnist", tmp_path / "home").x_train) == 30


def test_tiny_imagenet_is_a_zip_that_must_be_complete(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_tiny_imagenet(tmp_path / "made")
    archive = server.folder / "tiny.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for path in sorted(folder.rglob("*")):
            packed.write(path, path.relative_to(folder.parent))
    file = File(archive.name, (server.address + archive.name,), md5(archive))
    _publish(monkeypatch, Published(folder.name, (file,), packed=True))
    data.fetch("tiny-imagenet", tmp_path / "home")
    assert len(data.load("tiny-imagenet", tmp_path / "home").y_test) == 3
    with pytest.raises(data.FetchError, match="it has 12 training and 3 validation images"):
        data.fetch("tiny-imagenet", tmp_path / "home")  # the published one has more


def test_two_fetches_do_not_meet(tmp_path: Path, server: Server, cifar: Published) -> None:
    def again(name: str, received: int, total: int | None) -> None:
        with pytest.raises(data.FetchError, match="another process fetches"):
            data.fetch("cifar10", tmp_path)

    data.fetch("cifar10", tmp_path, progress=again)
    assert data.load("cifar10", tmp_path).num_classes == 10


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS])
def test_a_file_system_without_locks_is_told(
    tmp_path: Path, cifar: Published, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def flock(handle: object, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(data.FetchError, match=f"does not lock files .*{os.strerror(code)}") as told:
        data.fetch("cifar10", tmp_path)
    assert "another process" not in str(told.value)


@pytest.mark.parametrize("name", FETCHABLE)
def test_every_published_set_has_addresses_and_checksums(name: str) -> None:
    known = published(name)
    assert known.packed == (name not in ("mnist", "fashion-mnist"))
    assert len(known.files) == (1 if known.packed else 4)
    for file in known.files:
        assert len(file.md5) == 32
        assert all(address.endswith(f"/{file.name}") for address in file.addresses)
    with pytest.raises(ValueError, match=f"not in .*{known.folder.partition('/')[0]}"):
        data.load(name, "nowhere")


def test_wrong_words_are_wrong_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fetch", "digits", "--to", str(tmp_path)]) == 2
    assert main(["fetch", "mnist"]) == 2
    assert main(["fetch", "mnist", "--to", str(tmp_path), "--mirror", "here"]) == 2
    assert "required: --to" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
