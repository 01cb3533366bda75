"""Without the compiled extension: reference counting frees, and what Python holds is reported."""

import pytest
import torch
from boundaries import Layers, batch, momentum, train

from trgl_kernels.boundary import (
    BoundaryError,
    BoundaryWarning,
    Counters,
    ModuleBoundary,
    live_bytes,
)
from trgl_kernels.boundary.memory import native

pytestmark = pytest.mark.skipif(native() is not None, reason="the compiled extension is in use")


def test_a_step_crosses_and_reports_nothing():
    module = Layers()
    optimizer = momentum(module)
    boundary = ModuleBoundary("module 3", [module], [optimizer], find="always")

    def step():
        y, _ = train(module, optimizer, batch())
        return boundary.cross(y)

    for _ in range(3):
        with boundary:
            x = step()
        assert boundary.held == ()
        assert x.isfinite().all()
    assert boundary.last == Counters()  # nothing is counted


def test_what_python_holds_is_reported_and_stays():
    kept = []
    boundary = ModuleBoundary("module 3", find="always")

    def step():
        with boundary:
            kept.append(torch.ones(64, 64))
            kept.append(boundary.keep(torch.ones(64, 64)))

    with pytest.warns(BoundaryWarning, match=r"module 3.*\[64, 64\]"):
        step()
    (held,) = boundary.held
    assert (held.bytes, held.shape, held.released) == (64 * 64 * 4, (64, 64), False)
    assert "extension" in held.refused
    assert kept[0].sum() == 64 * 64


def test_counting_says_why_not():
    with pytest.raises(BoundaryError, match="compiled extension"):
        live_bytes()


def test_of_a_view_only_the_view_crosses():
    boundary = ModuleBoundary("module 3")
    with boundary:
        x = boundary.cross(torch.ones(64, 64)[:2])
    assert x.untyped_storage().nbytes() == 2 * 64 * 4
