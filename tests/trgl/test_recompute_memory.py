"""What is kept of a head that runs again in backward: nothing but the features."""

import gc
import weakref

import pytest
import torch
from awkward_heads import Counting, module, with_block, with_dropout
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import trgl


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
