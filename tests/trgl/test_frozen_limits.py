"""How much a cache and a chunk hold, and where they are refused."""

import os
import warnings

import pytest
import torch
from frozen import LOADERS, run, same, shuffled
from small import Once, batches, differing, network, sgd, state

from trgl import Trainer, store


@pytest.mark.parametrize("cache", [None, "memory"])
def test_a_chunk_bounds_every_pass(cache):
    *_, calls = run(cache, LOADERS["uneven"](), chunk=3)
    assert set(calls) == {3}
    *_, calls = run(cache, LOADERS["uneven"](), chunk=8)  # no smaller than a batch
    assert set(calls) <= {8, 5}


def test_a_disk_that_runs_full_ends_the_cache_and_not_the_run(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    plain = run(None, batches())
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.warns(UserWarning, match=r"no room for the features: .*No space left"):
        same(run(tmp_path, batches()), plain)
    assert list(tmp_path.iterdir()) == []


def test_only_the_last_features_are_held():
    net = network(modules=3)
    trainer = Trainer(net, "sequential", optimizer=sgd, epochs=2, cache="memory")
    held = {}

    def look(epoch, batch):
        held[epoch, batch] = [(at, len(rows)) for at, (_, rows) in trainer.front._levels.items()]

    trainer.fit(batches(), on_step=look)
    assert held[2, 3] == []
    assert held[3, 1] == [(1, 8)]
    assert held[4, 3] == [(1, 24)]
    assert held[5, 1] == [(1, 24), (2, 8)]
    assert held[6, 1] == [(2, 24)]
    assert not trainer.front._levels


def test_the_size_is_known_before_anything_is_trained(monkeypatch):
    asked = []
    monkeypatch.setattr(store, "available_memory", lambda: asked.append(1) or 24 * 2 * 4 * 36 * 4)
    net = network(modules=3)
    trainer = Trainer(net, "sequential", optimizer=sgd, epochs=1, cache="memory")
    trainer.fit(batches())  # two maps of 4 × 6 × 6 of 24 images
    monkeypatch.setattr(store, "available_memory", lambda: 24 * 2 * 4 * 36 * 4 - 1)
    before = state(net)
    with pytest.raises(ValueError, match=r"the features of 24 images take up to 27\.0 KiB, and "):
        trainer.fit(batches())
    assert not differing(before, state(net))
    half = Trainer(net, "sequential", optimizer=sgd, epochs=1, cache="memory", autocast=torch.half)
    monkeypatch.setattr(store, "available_memory", lambda: 24 * 2 * 4 * 36 * 2 - 1)
    with pytest.raises(ValueError, match=r"take up to 13\.5 KiB"):
        half.fit(batches())
    two = Trainer(network(2), "sequential", optimizer=sgd, epochs=1, cache="memory")
    monkeypatch.setattr(store, "available_memory", lambda: 24 * 4 * 36 * 4)
    two.fit(batches())
    assert asked


@pytest.mark.parametrize(
    ("loader", "options", "message"),
    [
        (lambda: shuffled(crop_padding=1), {}, "crops or flips its images anew in every epoch"),
        (lambda: shuffled(flip=True), {}, "crops or flips its images anew in every epoch"),
        (lambda: Once(batches()), {}, "how many images the training set holds"),
        (batches, {"regime": "parallel", "epochs": 1}, "nothing is frozen in front"),
        (batches, {"regime": "end-to-end"}, "nothing is frozen in front"),
    ],
)
def test_where_a_cache_cannot_be_it_is_refused(loader, options, message):
    with pytest.raises(ValueError, match=message):
        run("memory", loader(), **options)


@pytest.mark.parametrize(
    ("net_options", "regime", "epochs", "frozen"),
    [
        ({}, "parallel", 1, False),
        ({}, "end-to-end", 1, False),
        ({"modules": 1}, "sequential", 1, False),
        ({"encoder": "stem", "freeze_encoder": True}, "parallel", 1, True),
        ({}, "parallel", [1, 2, 2], True),
        ({}, "sequential", 1, True),
    ],
)
def test_a_chunk_needs_something_frozen(net_options, regime, epochs, frozen):
    options = {"regime": regime, "optimizer": sgd, "epochs": epochs, "chunk": 2}
    if frozen:
        assert Trainer(network(**net_options), **options).front.chunk == 2
    else:
        with pytest.raises(ValueError, match=r"chunk=2 and nothing is frozen.*Leave it out"):
            Trainer(network(**net_options), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"offload": "x"}, "offload must be True or False, but got 'x'"),
        ({"offload": 1}, "offload must be True or False, but got 1"),
        ({"chunk": 0}, "chunk must be a whole number of samples"),
        ({"chunk": True}, "chunk must be a whole number of samples"),
        ({"chunk": 2.0}, "chunk must be a whole number of samples"),
        ({"cache": True}, "cache must be None, 'memory' or a directory"),
        ({"cache": "/no/such/place"}, "a directory that exists"),
    ],
)
def test_wrong_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Trainer(network(), "sequential", optimizer=sgd, **options)


def test_no_warning_where_all_is_well():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run("memory", shuffled())
