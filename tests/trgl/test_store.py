"""Rows of features: what is put in comes out, wherever they are kept."""

import os
import shutil
from collections import namedtuple

import pytest
import torch

from trgl import store
from trgl.store import Rows, check_place, check_room, first, row_bytes

Usage = namedtuple("Usage", "total used free")
KEYS = [bytes([k]) for k in range(10)]


@pytest.fixture(params=["memory", "disk"])
def place(request, tmp_path):
    return "memory" if request.param == "memory" else tmp_path


LAYOUTS = {
    "contiguous": lambda x: x,
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "permuted": lambda x: x.permute(0, 2, 3, 1).contiguous().permute(0, 2, 1, 3),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_rows_come_back_bit_by_bit_in_their_layout(place, dtype, layout):
    features = layout(torch.randn(6, 3, 4, 5).to(dtype))
    rows = Rows(8, features, place)
    rows.put(KEYS[:4], features[:4])
    rows.put(KEYS[4:6], features[4:])
    assert len(rows) == 6
    chosen = [5, 0, 3, 3]
    found = rows.get([KEYS[k] for k in chosen])
    assert torch.equal(found, features[chosen])
    assert found.stride() == features.stride()
    assert found.dtype == dtype
    rows.close()
    assert len(rows) == 0


def test_special_values_come_back(place):
    features = torch.tensor([[float("nan"), float("inf"), -0.0, 1e-45]])
    rows = Rows(1, features, place)
    rows.put(KEYS[:1], features)
    assert torch.equal(rows.get(KEYS[:1]).view(torch.int32), features.view(torch.int32))


def test_what_is_missing_and_what_fits(place):
    features = torch.randn(3, 2)
    rows = Rows(4, features, place)
    rows.put(KEYS[:3], features)
    assert rows.missing([KEYS[1], KEYS[7], KEYS[8], KEYS[7]]) == [1, 2]
    assert not rows.full(1)
    assert rows.full(2)
    assert first([KEYS[2], KEYS[1], KEYS[2]]) == [0, 1]


def test_a_file_takes_all_its_space_at_once_and_has_no_name(tmp_path, monkeypatch):
    taken = []
    real = os.posix_fallocate
    monkeypatch.setattr(
        os, "posix_fallocate", lambda f, a, n: (taken.append((a, n)), real(f, a, n))
    )
    rows = Rows(100, torch.empty(1, 3, 7, dtype=torch.bfloat16), tmp_path)
    assert taken == [(0, 100 * 3 * 7 * 2)]
    assert list(tmp_path.iterdir()) == []
    rows.put(KEYS[:1], torch.ones(1, 3, 7, dtype=torch.bfloat16))
    assert rows.get(KEYS[:1]).sum() == 21


def test_space_is_taken_where_the_system_has_no_call_for_it(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "posix_fallocate")
    monkeypatch.setattr(os, "unlink", lambda name: None)  # to look at the file
    rows = Rows(300_000, torch.empty(1, 2), tmp_path)
    (file,) = tmp_path.iterdir()
    assert file.stat().st_size == 300_000 * 8
    assert file.stat().st_blocks * 512 >= 300_000 * 8
    rows.close()


def test_a_disk_that_does_not_take_it_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        Rows(4, torch.empty(1, 2), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_bytes_of_a_row():
    assert row_bytes(torch.empty(5, 3, 4, dtype=torch.bfloat16)) == 24


@pytest.mark.parametrize("given", [3, "", True, None, 1.5])
def test_a_place_is_a_word_or_a_directory(given):
    with pytest.raises(ValueError, match="cache must be None, 'memory' or a directory for a file"):
        check_place(given)


def test_a_directory_must_be_there(tmp_path):
    file = tmp_path / "file"
    file.touch()
    for path in (tmp_path / "nothing", file):
        with pytest.raises(ValueError, match="a directory that exists and can be written to"):
            check_place(path)
    check_place(tmp_path)
    check_place("memory")


def test_what_does_not_fit_is_refused_with_both_sizes(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 3 * 2**20))
    check_room(tmp_path, 3 * 2**20, "they")
    with pytest.raises(ValueError, match=r"take up to 5\.0 GiB, and 3\.0 MiB in .* are free"):
        check_room(tmp_path, 5 * 2**30, "they")
    monkeypatch.setattr(store, "available_memory", lambda: 2048)
    with pytest.raises(ValueError, match=r"take up to 2\.0 KiB, and 2\.0 KiB of memory are free"):
        check_room("memory", 2049, "they")
    monkeypatch.setattr(store, "available_memory", lambda: None)
    check_room("memory", 2**60, "they")


def test_the_system_says_how_much_memory_is_free():
    free = store.available_memory()
    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert free is not None
    assert 0 < free <= pages


def test_files_that_the_system_keeps_in_memory_count_as_free(monkeypatch, tmp_path):
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("999000\n")
    monkeypatch.setattr(store, "GROUPS", [(tmp_path, "memory.max", "memory.current")])
    assert store.available_memory() == 1000
    (tmp_path / "memory.stat").write_text("anon 99000\ninactive_file 700000\nactive_file 1\n")
    assert store.available_memory() == 701000
    (tmp_path / "memory.max").write_text("max\n")
    assert store.available_memory() > 1000000
