"""release gives memory back, every later touch names the reason, and what is unsafe is refused."""

import copy
import io
import mmap
import pickle
import subprocess
import sys
import threading
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import torch
from boundaries import needs_extension
from torch import nn

import trgl_kernels
from trgl_kernels.boundary import BoundaryError, live_bytes
from trgl_kernels.boundary.memory import absence, native

REASON = "module 3 of {run 7} ended; 100 % of it"

ACCESSES = {
    "add": lambda t: t + 1,
    "in-place": lambda t: t.add_(1),
    "matmul": lambda t: t @ t,
    "reduction": lambda t: t.sum(),
    "comparison": lambda t: t > 0,
    "index": lambda t: t[3, 4].item(),
    "boolean index": lambda t: t[torch.ones(64, dtype=torch.bool)],
    "assignment": lambda t: t.__setitem__((0, 0), 1.0),
    "view, then read": lambda t: t.view(-1)[::2].clone(),
    "transpose, then read": lambda t: t.t().contiguous(),
    "diagonal": lambda t: t.diagonal().tolist(),
    "print": lambda t: repr(t),
    "format": lambda t: str(t[0]),
    "item": lambda t: t.reshape(-1)[0].item(),
    "tolist": lambda t: t.tolist(),
    "float": lambda t: float(t[0, 0]),
    "bool": lambda t: bool(t[0, 0]),
    "iteration": lambda t: [row.sum() for row in t],
    "numpy": lambda t: t.numpy(),
    "asarray": lambda t: np.asarray(t),
    "save": lambda t: torch.save(t, io.BytesIO()),
    "deepcopy": lambda t: copy.deepcopy(t),
    "pickle": lambda t: pickle.dumps(t),
    "to another process": lambda t: ForkingPickler.dumps(t),
    "share memory": lambda t: t.share_memory_(),
    "dlpack": lambda t: torch.from_dlpack(t).sum(),
    "clone": lambda t: t.clone(),
    "conversion": lambda t: t.double(),
    "resize": lambda t: t.resize_(64, 64).sum(),
    "resize the storage": lambda t: t.untyped_storage().resize_(0),
    "copy from": lambda t: torch.empty(64, 64).copy_(t),
    "copy to": lambda t: t.copy_(torch.ones(64, 64)),
    "concatenation": lambda t: torch.cat([t, t]),
    "out argument": lambda t: torch.add(torch.ones(64, 64), 1, out=t),
    "convolution": lambda t: nn.functional.conv1d(t[None], torch.ones(2, 64, 3)),
    "batch norm": lambda t: nn.functional.batch_norm(t, None, None, training=True),
    "residual_energy": lambda t: trgl_kernels.residual_energy(torch.ones(64, 64), t),
    "its shortcut": lambda t: trgl_kernels.residual_energy(t, torch.ones(64, 64)),
    "residual_energy_layer_norm": lambda t: trgl_kernels.residual_energy_layer_norm(
        torch.ones(64, 64), t, None, None
    ),
    "displacement_energy": lambda t: trgl_kernels.displacement_energy(torch.ones(64, 64), t),
    "batch_norm_relu": lambda t: trgl_kernels.batch_norm_relu(t, *[None] * 4, training=True),
    "batch_norm_residual_energy": lambda t: trgl_kernels.batch_norm_residual_energy(
        t, torch.ones(64, 64), *[None] * 4, training=True
    ),
    "storage": lambda t: t.untyped_storage()[0],
    "pointer": lambda t: t.data_ptr(),
    "whether it is shared": lambda t: t.is_shared(),
    "whether its storage is shared": lambda t: t.untyped_storage().is_shared(),
    "equality": lambda t: torch.equal(t, torch.ones(64, 64)),
    "foreach": lambda t: torch._foreach_add([t], 1.0),
    "detach, then read": lambda t: t.detach().norm(),
    "fill": lambda t: t.zero_(),
}


@needs_extension
@pytest.mark.parametrize("access", ACCESSES.values(), ids=ACCESSES)
def test_a_touch_raises_the_reason(access):
    t = torch.randn(64, 64)
    alias = t[:, :]
    assert trgl_kernels.release(t, reason=REASON) == 64 * 64 * 4
    for touched in (t, alias):
        with pytest.raises(RuntimeError) as raised:
            access(touched)
        assert REASON in str(raised.value)


@needs_extension
def test_a_released_storage_never_comes_back():
    t = torch.randn(64, 64)
    trgl_kernels.release(t, reason=REASON)
    # torch refuses before it looks at the memory, and so cannot say why
    with pytest.raises(RuntimeError, match="not resizable"):
        t.resize_(128, 128)
    with pytest.raises(RuntimeError, match="module 3"):
        t.sum()


@needs_extension
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.int64, torch.bool])
def test_every_type_is_released(dtype):
    t = torch.ones(64, 64, dtype=dtype)
    assert trgl_kernels.release(t, reason=REASON) == t.numel() * t.element_size()
    with pytest.raises(RuntimeError, match="module 3"):
        t.sum()


@needs_extension
def test_the_bytes_are_free_and_counted_once():
    before = live_bytes()
    t, other = torch.randn(1000, 1000), torch.randn(300)
    view = t[5:7]
    assert live_bytes() - before == 4_001_200
    assert trgl_kernels.release(view, other, t, reason=REASON) == 4_001_200
    assert live_bytes() == before
    assert trgl_kernels.release(t, view, reason=REASON) == 0
    assert trgl_kernels.release(torch.empty(0), reason=REASON) == 0
    assert trgl_kernels.release() == 0


@needs_extension
def test_metadata_stays_readable():
    t = torch.randn(64, 64)
    trgl_kernels.release(t, reason=REASON)
    assert (t.shape, t.dtype, t.stride(), t.device.type) == (
        (64, 64),
        torch.float32,
        (64, 1),
        "cpu",
    )
    assert t.untyped_storage().nbytes() == 64 * 64 * 4
    del t


@needs_extension
def test_poison_reaches_whoever_has_a_pointer_that_torch_does_not_know():
    # below malloc's threshold for pages of their own: the memory stays mapped, and nothing of this
    # size is allocated before its middle is read (a memory checker rightly objects: see Makefile)
    t = torch.ones(8192)
    exported = torch.from_dlpack(t)
    assert trgl_kernels.release(t, reason=REASON, poison=True) == 32768
    assert exported[4000:4010].isnan().all()


def own():
    weight = nn.Parameter(torch.randn(64, 64))
    leaf = torch.randn(64, 64, requires_grad=True)
    return {
        "parameter": weight,
        "slice of a parameter": weight[3:],
        "detached parameter": weight.detach(),
        "data of a parameter": weight.data,
        "detached slice": weight.detach()[1:2, ::2],
        "leaf": leaf,
        "view of a leaf": leaf.view(-1),
        "detached leaf": leaf.detach().t(),
    }, (weight, leaf)


@needs_extension
@pytest.mark.parametrize("which", own()[0])
def test_parameters_and_leaves_are_refused_through_every_alias(which):
    tensors, owners = own()
    before = [owner.detach().clone() for owner in owners]
    innocent = torch.ones(2000)
    with pytest.raises(BoundaryError, match="parameter"):
        trgl_kernels.release(innocent, tensors[which], reason=REASON)
    assert innocent.sum() == 2000  # all or none
    for owner, value in zip(owners, before, strict=True):
        assert torch.equal(owner, value)


def exported_to_numpy():
    t = torch.ones(4000)
    return t, t.numpy()


def mapped(tmp_path):
    (tmp_path / "file").write_bytes(bytes(16_000))
    return torch.from_file(str(tmp_path / "file"), size=4000)


FOREIGN = {
    "exported to NumPy": lambda _: exported_to_numpy(),
    "from NumPy": lambda _: torch.from_numpy(np.ones(4000)),
    "buffer": lambda _: torch.frombuffer(bytearray(4000), dtype=torch.uint8),
    "anonymous mmap": lambda _: torch.frombuffer(mmap.mmap(-1, 4096), dtype=torch.uint8),
    "file": mapped,
    "shared": lambda _: torch.ones(4000).share_memory_(),
    "lazy clone": lambda _: torch._lazy_clone(torch.ones(4000)),
    "DLPack of NumPy": lambda _: torch.from_dlpack(np.ones(4000)),
    "meta": lambda _: torch.ones(4000, device="meta"),
    "sparse": lambda _: torch.eye(4000).to_sparse(),
}


@needs_extension
@pytest.mark.filterwarnings("ignore:.*buffer.*:UserWarning")
@pytest.mark.parametrize("make", FOREIGN.values(), ids=FOREIGN)
def test_what_cannot_be_made_safe_is_refused(make, tmp_path):
    made = make(tmp_path)
    t = made[0] if isinstance(made, tuple) else made
    with pytest.raises(BoundaryError, match="can be given back safely"):
        trgl_kernels.release(t, reason=REASON)
    if t.device.type == "cpu" and not t.is_sparse:
        t.sum()


@needs_extension
def test_both_sides_of_a_lazy_clone_are_refused():
    t = torch.ones(4000)
    clone = torch._lazy_clone(t)
    for side in (t, clone):
        with pytest.raises(BoundaryError, match="lazy clone"):
            trgl_kernels.release(side, reason=REASON)
    assert clone.sum() == t.sum() == 4000


@pytest.mark.parametrize(
    ("tensors", "reason", "words"),
    [
        (([1.0],), REASON, "only tensors"),
        ((None,), REASON, "only tensors"),
        ((), "", "reason must be a text"),
        ((), 3, "reason must be a text"),
    ],
)
def test_wrong_arguments(tensors, reason, words):
    with pytest.raises(BoundaryError, match=words):
        trgl_kernels.release(*tensors, reason=reason)


@needs_extension
def test_two_threads_release_the_same_storages():
    tensors = [torch.ones(2000) for _ in range(300)]
    freed = [0, 0]
    barrier = threading.Barrier(2)

    def work(place):
        barrier.wait()
        for t in tensors:
            freed[place] += trgl_kernels.release(t, reason=REASON)

    threads = [threading.Thread(target=work, args=(place,)) for place in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(freed) == 300 * 8000


@pytest.mark.skipif(native() is not None, reason="the compiled extension is in use")
def test_without_the_extension_release_refuses_and_says_why():
    t = torch.ones(2000)
    with pytest.raises(BoundaryError) as raised:
        trgl_kernels.release(t, reason=REASON)
    assert absence() in str(raised.value)
    assert t.sum() == 2000


def test_info_says_who_frees():
    boundary = trgl_kernels.info()["boundary"]
    assert boundary["release"] == (native() is not None)
    assert (boundary["why_not"] is None) == boundary["release"]


@needs_extension
def test_blocks_that_libraries_took_before_counting_began():
    """oneDNN gives memory back through whichever allocator is there then."""
    program = (
        "import torch; from trgl_kernels.boundary import live_bytes\n"
        "a = torch.randn(64, 64, 32, 32).to_mkldnn(); live_bytes()\n"
        "b = torch.randn(64, 64, 32, 32).to_mkldnn(); del a, b; print(live_bytes())"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) == 0


@needs_extension
def test_a_parameter_that_was_made_inside_a_boundary():
    with trgl_kernels.ModuleBoundary("module 3"):
        layer = nn.Linear(64, 64)
        with pytest.raises(BoundaryError, match="shares the storage of a parameter"):
            trgl_kernels.release(layer.weight.data)
        assert layer.weight.isfinite().all()
