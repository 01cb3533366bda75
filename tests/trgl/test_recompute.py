"""Heads that run again in backward: the same training, and nothing kept but the features."""

import gc
import weakref
from functools import partial

import pytest
import torch
from small import CLASSES, SHAPE, batches, differing, network, sgd, state
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils.parametrizations import spectral_norm
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import trgl
from trgl.body import Body
from trgl.network import GreedyModule
from trgl.recompute import recomputed
from trgl_kernels import RegularizedPreActBlock, collect_energy


def with_dropout(shape, classes):
    return nn.Sequential(nn.Dropout(0.3), *trgl.heads.conv(shape, classes), nn.Dropout(0.2))


def cumulative(shape, classes):
    head = trgl.heads.conv(shape, classes)
    head[3].momentum = None
    return head


class Counting(nn.Module):
    """A head whose buffer changes with every pass, and shapes what it computes."""

    def __init__(self, shape, classes):
        super().__init__()
        self.inner = trgl.heads.conv(shape, classes)
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, x):
        self.passes += 1
        return self.inner(x * (1 + 0.1 * self.passes))


def spectral(shape, classes):
    return nn.Sequential(nn.Flatten(), spectral_norm(nn.Linear(shape[0] * 36, classes)))


def with_block(shape, classes):
    return nn.Sequential(
        RegularizedPreActBlock(shape[0], shape[0]), trgl.heads.conv(shape, classes)
    )


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


def module(head, recompute_head, seed=0):
    torch.manual_seed(seed)
    body = Body([("block", RegularizedPreActBlock(4, 4))])
    return GreedyModule(body, head((4, 6, 6), CLASSES), recompute_head=recompute_head)


def saved(function, owner):
    """Storages that autograd keeps of a forward pass, parameters and buffers apart: their bytes."""
    known = {t.untyped_storage()._cdata for t in (*owner.parameters(), *owner.buffers())}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in known:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        result = function()
    return kept, result


MAP = 8 * 4 * 36 * 4  # bytes of the features
VECTOR = 4 * 4  # bytes of a value per channel
POOLED = 8 * 4 * 4  # bytes of a value per channel and sample


@pytest.mark.parametrize(
    ("head", "held"),
    [
        # ReLU's output; BN's input, mean, rstd and output
        (trgl.heads.conv, MAP + 2 * POOLED + 2 * VECTOR),
        (with_block, None),
        (trgl.heads.mlp, None),
    ],
    ids=["conv", "block", "mlp"],
)
def test_a_head_holds_nothing_but_the_features(head, held):
    x = torch.randn(8, 4, 6, 6)
    bytes_held = {}
    for again in (False, True):
        one = module(head, again)
        (kept, (features, logits)) = saved(lambda one=one: one(x), one)
        twin = module(head, again)
        alone, y = saved(lambda twin=twin: twin.body(x), twin)
        assert y.shape == features.shape
        bytes_held[again] = sum(kept.values()) - sum(alone.values())
        assert features.untyped_storage()._cdata in kept
        logits.sum().backward()
        own = y.untyped_storage()._cdata in alone  # the body keeps its output itself
    assert bytes_held[True] == (0 if own else MAP)
    assert bytes_held[False] > bytes_held[True]
    if held is not None:
        assert bytes_held[False] == bytes_held[True] + held


class Storages(TorchDispatchMode):
    """Weak references to every storage that an operator made."""

    def __init__(self):
        super().__init__()
        self.found = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self.found[storage._cdata] = weakref.ref(storage)
        return out

    def alive(self):
        gc.collect()
        return [s for s in (reference() for reference in self.found.values()) if s is not None]


@pytest.mark.parametrize("head", [trgl.heads.conv, with_dropout, Counting])
def test_nothing_that_a_head_made_is_alive_but_its_logits(head):
    one = module(head, True)
    features = torch.randn(8, 4, 6, 6, requires_grad=True)
    with Storages() as made:
        logits = trgl.recompute.recomputed(one.head, features)
    left = {s._cdata: s.nbytes() for s in made.alive()}
    for known in (logits, *one.head.parameters(), *one.head.buffers()):
        left.pop(known.untyped_storage()._cdata, None)
    # copies of buffers that are no running statistics: the 4 bytes of Counting
    assert sum(left.values()) == (4 if head is Counting else 0)


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
