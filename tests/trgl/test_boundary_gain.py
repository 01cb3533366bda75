"""What the boundary adds to detaching and dropping: a hook that keeps outputs costs no memory."""

import gc

import pytest
from boundaries import Detach
from small import batches, network, sgd

import trgl
from trgl_kernels.boundary import trim
from trgl_kernels.boundary.memory import native, resident_bytes

SIZE = 4096
MAP = SIZE * 4 * 6 * 6 * 4  # bytes of a map: 2.25 MiB
MODULES, STEPS = 2, 6


def growth(boundary) -> tuple[int, int]:
    """Resident bytes that six training steps of each module leave, and outputs that hooks kept."""
    net = network(modules=MODULES)
    trainer = trgl.Trainer(net, optimizer=sgd, epochs=1, transport=trgl.Transport(0.1))
    images, labels = batches(1, SIZE)[0]
    if boundary is not None:
        for step in trainer.steps:
            step.boundary = boundary

    def train() -> None:
        x = images
        for step in trainer.steps:
            x = step(x, labels)

    for _ in range(3):  # nothing is held yet, and the first steps, which find, are over
        train()
    kept = []
    for module in net:
        for unit in module.body.units:
            unit.register_forward_hook(lambda _m, _i, output: kept.append(output.detach() * 2))
    gc.collect()
    trim()
    before = resident_bytes()
    for _ in range(STEPS):
        train()
    trim()
    return resident_bytes() - before, len(kept)


@pytest.mark.filterwarnings("ignore::trgl_kernels.boundary.BoundaryWarning")
@pytest.mark.xfail(native() is None, reason="only the compiled extension frees what is held")
def test_hooks_that_keep_outputs_cost_no_memory_in_a_trainer():
    with_it, kept = growth(None)
    without, kept_too = growth(Detach())
    assert kept == kept_too >= MODULES * STEPS
    assert without > 0.9 * kept * MAP
    assert with_it < 0.1 * without
