"""Heads that run again in backward: the same training."""

from functools import partial

import pytest
import torch
from awkward_heads import Counting, cumulative, module, spectral, with_block, with_dropout
from small import CLASSES, SHAPE, batches, differing, network, sgd, state
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import trgl
from trgl.recompute import recomputed
from trgl_kernels import collect_energy

HEADS = {
    "conv": "conv",
    "mlp": "mlp",
    "pool-linear": "pool-linear",
    "dropout": with_dropout,
    "cumulative": cumulative,
    "counting": Counting,
    "spectral": spectral,
    "block": with_block,
}


def trained(recompute_heads, split_options, trainer_options):
    """What is there after two epochs, the generator's state included."""
    torch.manual_seed(0)
    net = network(recompute_heads=recompute_heads, **split_options)
    options = {"transport": trgl.Transport(0.1), "epochs": 2, **trainer_options}
    trainer = trgl.Trainer(net, optimizer=sgd, **options)
    states = []
    history = trainer.fit(
        batches(), on_epoch=lambda _: states.append(torch.random.get_rng_state().clone())
    )
    losses = [record.train_loss for record in history.records]
    return state(net), losses, states


@pytest.mark.parametrize(
    ("split_options", "trainer_options"),
    [
        *(pytest.param({"head": head}, {}, id=name) for name, head in HEADS.items()),
        pytest.param({"head": "conv", "shared_head": True}, {}, id="shared"),
        pytest.param({"head": "conv", "shared_head": True}, {"accumulate": 2}, id="shared-sums"),
        pytest.param({"head": "conv", "freeze_head": True}, {}, id="frozen"),
        pytest.param({"head": with_dropout, "encoder": "stem"}, {}, id="encoder"),
        pytest.param({"head": with_dropout}, {"autocast": torch.bfloat16}, id="autocast"),
        pytest.param({"head": "conv"}, {"clip_norm": 0.1}, id="clipped"),
        pytest.param({"head": with_dropout}, {"regime": "sequential"}, id="sequential"),
        pytest.param({"head": with_dropout}, {"regime": "end-to-end"}, id="end-to-end"),
        pytest.param({"head": "conv", "modules": 1}, {"compile": True}, id="compiled"),
    ],
)
def test_training_is_the_same_to_the_last_bit(split_options, trainer_options):
    plain = trained(False, split_options, trainer_options)
    again = trained(True, split_options, trainer_options)
    assert not differing(plain[0], again[0])
    assert plain[1] == again[1]
    assert all(torch.equal(a, b) for a, b in zip(plain[2], again[2], strict=True))


def test_the_first_modules_recompute_and_the_others_do_not():
    for given, expected in (
        (False, [False] * 3),
        (True, [True] * 3),
        (0, [False] * 3),
        (2, [True, True, False]),
    ):
        net = network(recompute_heads=given, head="conv")
        assert [one.recompute_head for one in net] == expected
    net = network(recompute_heads=1, head="conv", encoder="stem")
    assert [one.recompute_head for _, one in net.trained] == [True, True, False, False]


@pytest.mark.parametrize("given", [-1, 4, 1.0, "all", None])
def test_other_values_are_refused(given):
    with pytest.raises(ValueError, match="recompute_heads must be True, False, or how many"):
        network(recompute_heads=given)


def test_hooks_run_once_and_see_what_they_saw():
    calls = {}
    for again in (False, True):
        one = module(trgl.heads.conv, again)
        seen = calls[again] = []
        one.head[1].register_forward_hook(lambda m, i, o, seen=seen: seen.append(o.detach()))
        one.head[4].register_full_backward_hook(lambda m, gi, go, seen=seen: seen.append(go[0]))
        _, logits = one(torch.arange(8 * 144.0).view(8, 4, 6, 6) % 7)
        logits.sum().backward()
    assert len(calls[True]) == len(calls[False]) == 2
    assert all(torch.equal(a, b) for a, b in zip(*calls.values(), strict=True))


def test_gradients_of_parameters_that_the_head_borrows_arrive():
    outside = nn.Parameter(torch.ones(()))

    class Borrows(nn.Module):
        def __init__(self, shape, classes):
            super().__init__()
            self.inner = trgl.heads.linear(shape, classes)

        def forward(self, x):
            return self.inner(x * outside).sin()

    found = []
    for again in (False, True):
        one = module(Borrows, again)
        outside.grad = None
        one(torch.ones(2, 4, 6, 6))[1].square().sum().backward()
        found.append(outside.grad)
    assert torch.equal(*found)
    assert found[0].abs() > 0


def test_a_failing_second_run_leaves_the_buffers_in_place():
    class Fails(nn.Module):
        def __init__(self, shape, classes):
            super().__init__()
            self.norm = nn.BatchNorm2d(shape[0])
            self.inner = trgl.heads.linear(shape, classes)
            self.fails = False

        def forward(self, x):
            x = self.norm(x)
            if self.fails:
                raise RuntimeError("second run")
            return self.inner(x).sin()

    one = module(Fails, True)
    _, logits = one(torch.randn(2, 4, 6, 6))
    buffers, values = dict(one.head.named_buffers()), state(one.head)
    one.head.fails = True
    with pytest.raises(RuntimeError, match="second run"):
        logits.sum().backward()
    after = dict(one.head.named_buffers())
    assert all(after[name] is buffer for name, buffer in buffers.items())
    assert not differing(values, state(one.head))


def test_backward_inside_a_collector_adds_no_energy():
    one = module(with_block, True)
    with collect_energy() as energies:
        _, logits = one(torch.randn(2, 4, 6, 6))
        before = len(energies)
        logits.sum().backward()
    assert len(energies) == before == 1


def test_it_runs_on_tensors_without_data():
    one = module(partial(trgl.heads.conv, window=2), True)
    with FakeTensorMode(allow_non_fake_inputs=True):
        features, logits = one(torch.empty(4, 4, 6, 6))
        logits.sum().backward()
    assert features.shape == (4, 4, 6, 6)


def test_an_assembled_model_and_evaluation_run_the_head_once():
    net = network(recompute_heads=True, head=Counting)
    before = net[2].head.passes.item()
    with torch.no_grad():
        net.eval()(torch.randn(2, *SHAPE))
    assert net[2].head.passes == before + 1
    assert net.assemble()(torch.randn(2, *SHAPE)).shape == (2, CLASSES)
    assert net[2].head.passes == before + 2


def test_backward_twice_through_a_recomputed_head() -> None:
    head = trgl.heads.conv((3, 8, 8), CLASSES)
    x = torch.randn(4, 3, 8, 8, requires_grad=True)
    total = recomputed(head, x).sum()
    (first,) = torch.autograd.grad(total, x, retain_graph=True)
    (second,) = torch.autograd.grad(total, x)
    assert torch.equal(first, second)
