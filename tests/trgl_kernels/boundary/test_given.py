"""What a boundary is given: mistakes are named, and tensors of several storages are one tensor."""

import copy
import pickle
import time
import warnings

import numpy as np
import pytest
import torch
from boundaries import Layers, batch, momentum, needs_extension
from torch import nn

import trgl_kernels
from trgl_kernels.boundary import BoundaryError, BoundaryWarning, ModuleBoundary

SPARSE = {
    "coo": lambda t: t.to_sparse(),
    "csr": lambda t: t.to_sparse_csr(),
    "csc": lambda t: t.to_sparse_csc(),
    "bsr": lambda t: t.to_sparse_bsr((2, 2)),
    "bsc": lambda t: t.to_sparse_bsc((2, 2)),
}


def nested(rows):
    return torch.nested.nested_tensor([torch.ones(n, 100) for n in rows], layout=torch.jagged)


@pytest.mark.parametrize("what", ["modules", "optimizers"])
def test_one_module_in_place_of_a_sequence(what):
    for mistake in (Layers(), nn.Sequential(nn.ReLU()), momentum(Layers()), [3], "module", None):
        with pytest.raises(BoundaryError, match=rf"{what} must be a sequence of torch\."):
            ModuleBoundary("module 3", **{what: mistake})
    ModuleBoundary("module 3", nn.ModuleList([Layers()]).children(), (momentum(Layers()),))


@pytest.mark.parametrize("copied", [pickle.dumps, copy.copy, copy.deepcopy])
def test_it_is_never_copied(copied):
    with pytest.raises(BoundaryError, match=r"belongs to its process.*'module 3'"):
        copied(ModuleBoundary("module 3"))


@needs_extension
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta state")
@pytest.mark.parametrize("sparse", SPARSE.values(), ids=SPARSE)
def test_sparse_tensors_cross_and_are_kept(sparse):
    boundary = ModuleBoundary("module 3", find="always")
    with boundary:
        crossing = boundary.cross(sparse(2 * torch.ones(64, 64, requires_grad=True)))
        kept = boundary.keep(sparse(3 * torch.ones(64, 64)))
    assert boundary.held == ()
    assert boundary.last.crossed >= 64 * 64 * 4
    assert torch.equal(crossing.to_dense(), torch.full((64, 64), 2.0))
    assert torch.equal(kept.to_dense(), torch.full((64, 64), 3.0))


@needs_extension
def test_nested_tensors_cross_and_are_kept():
    boundary = ModuleBoundary("module 3", find="always")
    with boundary:
        crossing, kept = boundary.cross(nested([40, 30])), boundary.keep(nested([20, 30]))
    assert boundary.held == ()
    assert boundary.last.crossed >= 70 * 100 * 4
    assert crossing.values().sum() == 7000
    assert kept.values().sum() == 5000
    with boundary:
        pass
    assert crossing.values().isfinite().all()  # and goes through the next scope unharmed


@needs_extension
def test_what_has_no_storage_does_not_cross():
    boundary = ModuleBoundary("module 3")
    with boundary, pytest.raises(BoundaryError, match=r"_mkldnn.*to_dense"):
        boundary.cross(torch.ones(64, 64).to_mkldnn())


@needs_extension
def test_sparse_gradients_are_accumulated():
    table = nn.Embedding(3000, 64, sparse=True)
    boundary = ModuleBoundary("module 3", [table], find="always")
    for count in range(1, 4):
        with boundary:
            table(torch.arange(500)).sum().backward()
        assert boundary.held == ()
        assert table.weight.grad.coalesce().values().sum() == count * 500 * 64


@needs_extension
def test_refusals_inside_a_scope_give_the_true_reason():
    boundary = ModuleBoundary("module 3", find="always")
    handed_out = torch.ones(2000)
    handed_out.numpy()
    with boundary:
        mine = torch.ones(2000)
        for refused, words in (
            (torch.from_numpy(np.ones(2000)), "foreign"),
            (handed_out, "NumPy"),
            (torch.eye(64).to_sparse(), "no storage of its own"),
            (torch.ones(2000, device="meta"), "on meta"),
        ):
            with pytest.raises(BoundaryError, match=words):
                trgl_kernels.release(mine, refused, reason="early")
        assert trgl_kernels.release(mine, reason="early") == 8000
        assert trgl_kernels.release(mine, torch.ones(0), reason="again") == 0


@needs_extension
def test_one_tensor_is_not_several():
    kept = []

    def hold(count):
        with ModuleBoundary("module 3", find="always"):
            kept.extend(torch.ones(64, 64) for _ in range(count))

    with pytest.warns(BoundaryWarning, match="held 1 tensor of its step"):
        hold(1)
    with pytest.warns(BoundaryWarning, match="held 2 tensors of its step"):
        hold(2)


@needs_extension
def test_time_grows_with_the_number_of_tensors_that_are_held():
    def seconds(count):  # of the processor for this thread: others may keep it waiting
        kept = []
        boundary = ModuleBoundary("module 3", find="always")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", BoundaryWarning)
            with boundary:
                kept.append([torch.ones(1100) for _ in range(count)])
                start = time.thread_time()
            taken = time.thread_time() - start
        assert len(boundary.held) == count
        return taken

    seconds(100)
    short, long = (min(seconds(count) for _ in range(3)) for count in (500, 8000))
    assert long < 16 * short * 4  # proportional: 16 times; quadratic: 256 times


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: boundaries of the CPU's modules")
def test_a_boundary_on_the_cpu_leaves_a_device_alone():
    before = torch.ones(64, 64, device="cuda")
    boundary = ModuleBoundary("module 3", [Layers()], find="always")
    with boundary:
        view = before[:32]  # an operator returned it, and nobody noted what it was given
        made = torch.ones(64, 64, device="cuda")
        for tensor in (view, made):
            with pytest.raises(BoundaryError, match="not known to be made in it"):
                trgl_kernels.release(tensor, reason="early")
    assert boundary.held == ()
    assert view.sum() + made.sum() == 96 * 64
    assert batch().shape == (64, 64)
