"""The memory of training steps, measured: a counter that shares nothing with the prediction."""

import contextlib
import gc
import os
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile, record_function

from .forecast import gradients_of, sgd, states_of, steps_of
from .memory.fake import place_of
from .memory.saved import check_batch
from .network import GreedyNetwork
from .per_module import OptimizerBuilder
from .step import LocalStep
from .transport import Multipliers, Transport

# operators within which a library allocates and frees scratch of its own, such as copies of maps
# and weights in its own layout
LIBRARY = (
    "aten::mkldnn_convolution",
    "aten::convolution_backward",
    "aten::mkldnn_convolution_backward",
    "aten::mkldnn_linear",
    "aten::addmm",
)


@dataclass(frozen=True)
class Measured:
    """What one module's step took, in bytes.

    Args:
        number: of the module; of the last one for end-to-end training.
        activations: on the CPU, the peak of what torch's allocator had handed out, without library
            scratch, parameters, buffers, gradients and optimizer state; None on a GPU.
        allocated: on a GPU the peak of what torch's allocator had handed out, all of it; on the CPU
            the same as activations, with library scratch.
        reserved: on a GPU the peak of what the allocator had taken from the driver; None on a CPU.
        process: on a GPU what all processes together had taken from the device after the step; on
            the CPU the peak of the process's resident memory; None where it is not known.
    """

    number: int
    activations: int | None
    allocated: int
    reserved: int | None
    process: int | None


def measure_steps(
    network: GreedyNetwork,
    batch: int,
    *,
    regime: str = "parallel",
    transport: Transport | Multipliers | None = None,
    optimizer: OptimizerBuilder = sgd,
    autocast: torch.dtype | None = None,
) -> list[Measured]:
    """Trains two batches of noise, and measures the second one, module by module.

    Args:
        network: where it is; its weights change.
        batch: N ≥ 1.
        regime: "parallel" or "end-to-end".
        transport: with the penalty where it is given.
        optimizer: a callable from a list of parameters to an Optimizer, called once per module.
        autocast: bfloat16 or None.

    Raises:
        ValueError: the batch is no whole number of at least 1, or another wrong argument.
    """
    check_batch(batch)
    steps = steps_of(network, regime, transport, optimizer, autocast)
    device, dtype = place_of(network)
    front = network.encoder if network.encoder not in (None, *_trained(network)) else None

    def batch_of() -> tuple[Tensor, Tensor]:
        images = torch.randn(batch, *network.input_shape, device=device, dtype=dtype)
        return images, torch.zeros(batch, dtype=torch.long, device=device)

    def entered(images: Tensor) -> Tensor:
        if front is None:
            return images
        with torch.no_grad(), steps[0].precision():
            features: Tensor = front(images)
        return features

    for step in steps:
        step.boundary.find = "never"  # what is measured is a step without a search, as most are
    images, labels = batch_of()
    x = entered(images)
    for step in steps:
        x = step(x, labels, images)
    del x, images, labels
    gc.collect()
    if device.type == "cuda":
        return _on_gpu(steps, batch_of, entered, device)
    return _on_cpu(steps, batch_of, entered)


def _trained(network: GreedyNetwork) -> list[Any]:
    return [module for _, module in network.trained]


def _on_gpu(steps: Sequence[LocalStep], batch_of: Any, entered: Any, device: Any) -> list[Measured]:
    images, labels = batch_of()
    x = entered(images)
    found = []
    for step in steps:
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()  # what other steps reserved is not this one's
        torch.cuda.reset_peak_memory_stats(device)
        x = step(x, labels, images)
        torch.cuda.synchronize(device)
        free, whole = torch.cuda.mem_get_info(device)
        found.append(
            Measured(
                step.number,
                None,
                torch.cuda.max_memory_allocated(device),
                torch.cuda.max_memory_reserved(device),
                whole - free,
            )
        )
    return found


def _on_cpu(steps: Sequence[LocalStep], batch_of: Any, entered: Any) -> list[Measured]:
    names = [f"trgl module {step.number}" for step in steps]
    resident: list[int | None] = []
    with gradients_of(steps) as gradients:
        with _quiet():
            recorder = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
            recorder.start()
        images, labels = batch_of()
        x = entered(images)
        for step, name in zip(steps, names, strict=True):
            _reset_resident()
            with record_function(name):
                x = step(x, labels, images)
            resident.append(_peak_resident())
        with _quiet():
            recorder.stop()
    own = sorted(tensor.data_ptr() for tensor in [*gradients, *states_of(steps)])
    events, windows = _allocations(recorder)
    found = []
    for step, name, process in zip(steps, names, resident, strict=True):
        everything, without = (_peak(events, windows[name], own, scratch) for scratch in (1, 0))
        found.append(Measured(step.number, without, everything, None, process))
    return found


@dataclass
class _Allocation:
    """One block of memory, from time to time; without an end where it outlives the recording."""

    start: int
    size: int
    address: int
    inside: tuple[tuple[str, int], ...]  # names and end times of the operators around it
    end: int | None = None

    @property
    def is_scratch(self) -> bool:
        """Whether it was freed before the library's operator was over."""
        ends = [end for name, end in self.inside if name in LIBRARY]
        return self.end is not None and any(self.end <= end for end in ends)


def _allocations(recorder: Any) -> tuple[list[_Allocation], dict[str, tuple[int, int]]]:
    """Every allocation of the recording, and start and end of what was given a name."""
    kind = torch._C._profiler._EventType.Allocation
    rows: list[tuple[int, int, int, tuple[tuple[str, int], ...]]] = []
    windows: dict[str, tuple[int, int]] = {}
    waiting: list[tuple[Any, tuple[tuple[str, int], ...]]]
    waiting = [(e, ()) for e in recorder.profiler.kineto_results.experimental_event_tree()]
    while waiting:
        event, inside = waiting.pop()
        if event.tag == kind:
            fields = event.extra_fields
            rows.append((event.start_time_ns, fields.alloc_size, fields.ptr, inside))
        windows[event.name] = (event.start_time_ns, event.end_time_ns)
        around = (*inside, (event.name, event.end_time_ns))
        waiting += [(child, around) for child in event.children]
    rows.sort(key=lambda row: row[0])
    found: list[_Allocation] = []
    alive: dict[int, _Allocation] = {}
    for time, size, address, inside in rows:
        if size > 0:
            alive[address] = _Allocation(time, size, address, inside)
            found.append(alive[address])
        elif address in alive:
            alive.pop(address).end = time
    return found, windows


def _peak(
    allocations: Sequence[_Allocation], window: tuple[int, int], own: Sequence[int], scratch: int
) -> int:
    changes: list[tuple[int, int]] = []
    for one in allocations:
        # an allocator may hand out an address some bytes behind what it took
        place = bisect_left(own, one.address)
        owned = place < len(own) and own[place] < one.address + one.size
        if (owned and one.end is None) or (one.is_scratch and not scratch):
            continue
        changes.append((one.start, one.size))
        if one.end is not None:
            changes.append((one.end, -one.size))
    live = peak = 0
    for time, size in sorted(changes):
        live += size
        if time <= window[0]:
            peak = live
        elif time <= window[1]:
            peak = max(peak, live)
    return peak


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The profiler writes to the process's standard error when it starts and stops."""
    with open(os.devnull, "wb") as nowhere:
        kept = os.dup(2)
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _reset_resident() -> None:
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def _peak_resident() -> int | None:
    with contextlib.suppress(OSError), open("/proc/self/status") as file:
        for line in file:
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    return None
