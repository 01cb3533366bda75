"""Frozen modules in small passes or remembered: the training is the same."""

import pytest
import torch
from frozen import FLOATS, LOADERS, run, same, shuffled
from small import CLASSES, SHAPE, Once, batches, network, sgd, state
from torch import nn

import trgl
from trgl import Trainer

RUNS = {
    "sequential": {"regime": "sequential", "epochs": 3},
    "laps": {"regime": "multi-lap", "laps": 2, "epochs": 4},
    "parallel": {"epochs": [1, 4, 3]},
}


@pytest.mark.parametrize("place", ["memory", "disk"])
@pytest.mark.parametrize("regime", RUNS.values(), ids=RUNS.keys())
@pytest.mark.parametrize("data", LOADERS.values(), ids=LOADERS.keys())
def test_the_training_is_the_same_to_the_last_bit(place, regime, data, tmp_path):
    cached = run("memory" if place == "memory" else tmp_path, data(), **regime)
    plain = run(None, data(), **regime)
    same(cached, plain)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("net_options", "options"),
    [
        ({}, {"autocast": torch.bfloat16}),
        ({}, {"channels_last": True}),
        ({"encoder": "stem"}, {}),
        ({"encoder": "stem", "freeze_encoder": True}, {}),
        ({"encoder": "stem", "freeze_encoder": True}, {"regime": "parallel"}),
        ({"encoder": "stem", "freeze_encoder": True}, {"regime": "end-to-end"}),
        ({"block": "post-activation", "shared_head": True}, {"accumulate": 2}),
        ({"recompute_heads": True}, {"clip_norm": 1.0}),
    ],
    ids=str,
)
@pytest.mark.parametrize("chunk", [None, 3])
def test_it_is_the_same_with_every_option(net_options, options, chunk):
    runs = [run(c, LOADERS["uneven"](), net_options, chunk, **options) for c in ("memory", None)]
    same(*runs)
    assert len(runs[0][2]) < len(runs[1][2])  # fewer passes through frozen modules


@pytest.mark.parametrize("data", ["list", "uneven", "DataLoader"])
def test_frozen_modules_run_in_one_epoch_only(data):
    count = {"list": 3, "uneven": 3, "DataLoader": 3}[data]
    for place, epochs in (("memory", 2), ("memory", 5), (None, 5)):
        *_, calls = run(place, LOADERS[data](), epochs=epochs)
        if place is None:  # one module before module 2, two before module 3
            assert len(calls) == epochs * count * (1 + 2)
        elif data == "list":  # what module 3 sees is made from what module 2 saw
            assert calls == [4] * (count * (1 + 1))
        else:  # a batch of 5 after two of 8: computed each time, and once more to be remembered
            assert calls.count(8) == (2 + 1) + (2 + 2)
            assert calls.count(5) == epochs * (1 + 2)


@pytest.mark.parametrize("chunk", [1, 2, 3, 7])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_chunks_change_features_by_rounding_only(chunk, layout):
    net = network(modules=3, head="conv").eval()
    trainer = Trainer(net, "sequential", optimizer=sgd, chunk=chunk)
    images = FLOATS[:8].contiguous(memory_format=layout)
    trainer.front.begin([3])
    features = trainer.front(images)
    expected = net[1].body(net[0].body(images))
    torch.testing.assert_close(features, expected, rtol=1e-5, atol=1e-6)
    assert features.stride() == expected.stride()
    assert not features.requires_grad
    if chunk in (2, 3):  # no kernel for a single sample, and a filled up pass
        assert torch.equal(features, expected)


def test_a_chunk_does_not_see_how_the_batch_was_filled_up():
    trainer = Trainer(network(modules=2), "sequential", optimizer=sgd, chunk=4)
    trainer.network.eval()
    trainer.front.begin([2])
    whole = trainer.front(FLOATS)
    for chosen in ([3], [20, 7], [0, 5, 6, 1, 9]):
        assert torch.equal(trainer.front(FLOATS[chosen]), whole[chosen])


class Noisy(Once):
    """A loader that says how long it is and not that its images change."""

    def __init__(self, changes):
        super().__init__([])
        self.samples = 12
        self.changes = changes

    def __iter__(self):
        for images, labels in batches(3, 4):
            yield images + self.changes * torch.rand(()), labels


def test_images_that_change_are_noticed_and_computed():
    plain = run(None, Noisy(1.0))
    with pytest.warns(UserWarning, match="holds 12 images, and gave more different ones"):
        cached = run("memory", Noisy(1.0))
    same(cached, plain)
    same(run("memory", Noisy(0.0)), run(None, Noisy(0.0)))


class Random(nn.Module):
    def forward(self, x):
        return x + 0.01 * torch.rand(x.shape)


def test_frozen_modules_that_draw_random_numbers_are_computed():
    def once(cache):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(72, 8), Random(), nn.Linear(8, 8))
        net = trgl.split(model, 2, SHAPE, CLASSES, "linear")
        history = Trainer(net, "sequential", optimizer=sgd, epochs=3, cache=cache).fit(batches())
        return state(net), [r.train_loss for r in history.records]

    plain = once(None)
    with pytest.warns(UserWarning, match="a frozen module draws random numbers"):
        same(once("memory"), plain)


def test_weights_that_somebody_changes_are_noticed():
    def once(cache):
        net = network(modules=2)

        def meddle(record):
            if record.epoch == 4:  # module 2 trains for the second time
                with torch.no_grad():
                    next(net[0].body.parameters()).data.mul_(1.5)

        trainer = Trainer(net, "sequential", optimizer=sgd, epochs=3, cache=cache)
        history = trainer.fit(batches(), on_epoch=meddle)
        return state(net), [r.train_loss for r in history.records]

    same(once("memory"), once(None))


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_run_leaves_nothing_and_goes_on_the_same(tmp_path, error):
    def once(cache, stop):
        net = network(modules=3)
        trainer = Trainer(net, "sequential", optimizer=sgd, epochs=2, cache=cache)

        def at(epoch, batch):
            if stop == (epoch, batch):
                assert list(tmp_path.iterdir()) == []
                raise error

        with pytest.raises(error):
            trainer.fit(batches(), on_step=at)
        assert not trainer.front._levels
        history = trainer.fit(batches())
        return state(net), [r.train_loss for r in history.records]

    for stop in ((3, 2), (5, 1), (6, 3)):
        same(once(tmp_path, stop), once(None, stop))


def test_a_run_taken_up_in_another_process_goes_on_the_same():
    """As from saved weights and optimizers: what is remembered is no part of the state."""

    def once(cache):
        net = network(modules=3)
        Trainer(net, "sequential", optimizer=sgd, epochs=2, cache=cache).fit(shuffled())
        other = network(modules=3, seed=1)
        other.load_state_dict(net.state_dict())
        history = Trainer(other, "sequential", optimizer=sgd, epochs=2, cache=cache).fit(shuffled())
        return state(other), [r.train_loss for r in history.records]

    same(once("memory"), once(None))
