"""What is meant to live goes unharmed, also where it was made inside."""

from collections import deque

import pytest
import torch
from boundaries import Layers, batch, momentum, needs_extension
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from trgl_kernels import RegularizedResidual, collect_energy
from trgl_kernels.boundary import ModuleBoundary, current

pytestmark = needs_extension  # warnings are errors: nothing below may be found held


class Lazy(nn.Module):
    """Makes a parameter and a buffer when it first runs, and a new buffer each time."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.LazyLinear(64)
        self.register_buffer("mask", None)

    def forward(self, x):
        if self.mask is None:
            self.register_buffer("table", torch.ones(64, 64))
            self.weight = nn.Parameter(torch.ones(64, 64))
        self.mask = torch.ones(64, 64)
        return self.linear(x) * self.mask * self.table @ self.weight


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("optimizer", [momentum, lambda m: torch.optim.Adam(m.parameters())])
def test_parameters_buffers_gradients_and_optimizer_state(optimizer, accumulate):
    module = Lazy()
    boundary = ModuleBoundary("lazy", [module], find="always")
    state = None
    for step in range(6):
        with boundary:
            y = module(batch())
            y.square().mean().backward()
            if state is None:
                state = optimizer(module)
                boundary.optimizers.append(state)
            if step % accumulate == accumulate - 1:
                state.step()
                state.zero_grad()
            del y
        assert boundary.held == ()
        for tensor in (*module.parameters(), *module.buffers()):
            tensor.sum()  # raises if it was released
        for parameter in module.parameters():
            assert (parameter.grad is None) == (step % accumulate == accumulate - 1)
            if parameter.grad is not None:
                parameter.grad.sum()
    values = [value for entry in state.state.values() for value in entry.values()]
    assert len(values) >= 3  # of weight, linear weight, and bias
    for value in values:
        torch.as_tensor(value).sum()


def test_parameters_that_no_module_has():
    extra = []
    boundary = ModuleBoundary("grows", find="always")
    with boundary:
        extra.append(nn.Parameter(torch.randn(64, 64)))
        extra.append(torch.randn(64, 64, requires_grad=True))
    assert boundary.held == ()
    for parameter in extra:
        assert parameter.isfinite().all()


def test_the_batch_and_its_gradient():
    module = Layers()
    x = batch().requires_grad_()
    boundary = ModuleBoundary("module 1", [module], find="always")
    with boundary:
        module(x).square().mean().backward()
        boundary.keep(x.grad)
        module.zero_grad()
    assert x.isfinite().all()
    assert x.grad.isfinite().all()


def test_keep_from_a_hook():
    module, features = Layers(), []
    module.layers[1].register_forward_hook(
        lambda _m, _i, output: features.append(current().keep(output.detach()[:, :8]))
    )
    boundary = ModuleBoundary("module 1", [module], find="always")
    with boundary:
        module(batch())
    assert boundary.held == ()
    assert features[0].shape == (64, 8)
    assert features[0].isfinite().all()


def test_energies_of_a_collector_around_the_boundary():
    block = RegularizedResidual(nn.Linear(4, 4))
    boundary = ModuleBoundary("module 1", [block], find="always")
    with collect_energy() as energies:
        with boundary, torch.no_grad():
            block(torch.randn(3000, 4))  # 12 KB of energies
        assert energies.energies[0].isfinite().all()
    assert boundary.held == ()


@pytest.mark.parametrize("find", ["always", "sampled"])
def test_copies_of_weights_that_an_autocast_keeps(find):
    module = Layers()
    boundary = ModuleBoundary("module 1", [module], find=find)
    with torch.autocast("cpu", torch.bfloat16):
        for _ in range(4):
            with boundary:
                module(batch()).float().square().mean().backward()
                module.zero_grad()
            assert boundary.held == ()
        assert module(batch()).isfinite().all()


def test_weights_that_a_parametrization_keeps():
    module = parametrizations.weight_norm(nn.Linear(64, 64))
    boundary = ModuleBoundary("module 1", [module], find="always")
    with parametrize.cached(), torch.no_grad():
        with boundary:
            module(batch())
        assert boundary.held == ()
        assert module(batch()).isfinite().all()


def test_spectral_norm_and_its_buffers():
    module = parametrizations.spectral_norm(nn.Linear(2048, 4))
    boundary = ModuleBoundary("module 1", [module], find="always")
    for _ in range(3):
        with boundary:
            module(torch.randn(4, 2048)).sum().backward()
            module.zero_grad()
        assert boundary.held == ()
        assert all(b.isfinite().all() for b in module.buffers())


def test_loss_scaling():
    module = Layers()
    optimizer = momentum(module)
    boundary = ModuleBoundary("module 1", [module], [optimizer], find="always")
    scaler = torch.amp.GradScaler("cpu")
    for _ in range(3):
        with boundary:
            with torch.autocast("cpu", torch.float16):
                y = module(batch())
            scaler.scale(y.float().square().mean()).backward()
            scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            del y
        assert boundary.held == ()
    assert scaler.get_scale() > 0


def test_what_others_make_meanwhile_is_theirs():
    import threading

    made, go, done = [], threading.Event(), threading.Event()

    def load():
        go.wait(60)
        made.append(torch.randn(64, 64))  # the next batch, prepared in another thread
        done.set()

    thread = threading.Thread(target=load)
    thread.start()
    boundary = ModuleBoundary("module 1", find="always")
    with boundary:
        go.set()
        done.wait(60)
    thread.join()
    assert boundary.held == ()
    assert made[0].isfinite().all()


def test_gradients_of_parameters_that_the_boundary_was_not_given():
    stranger = torch.randn(64, 64, requires_grad=True)
    boundary = ModuleBoundary("module 3", find="always")
    with boundary:
        (torch.randn(64, 64) * stranger).sum().backward()
    assert boundary.held == ()
    assert stranger.grad is not None
    assert torch.isfinite(stranger.grad).all()


def test_optimizer_state_in_a_deque_and_in_objects():
    class Projector:
        def __init__(self, like):
            self.basis = torch.ones_like(like)

    weight = nn.Parameter(torch.randn(64, 64))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    boundary = ModuleBoundary("module 3", optimizers=[optimizer], find="always")
    with boundary:
        weight.square().sum().backward()
        optimizer.state[weight]["past"] = deque([weight.grad.clone()])
        optimizer.state[weight]["projector"] = Projector(weight)
    assert optimizer.state[weight]["past"][0].isfinite().all()
    assert optimizer.state[weight]["projector"].basis.sum() == 64 * 64


def test_what_is_kept_for_the_outer_boundary_while_an_inner_one_is_open():
    outer, inner = ModuleBoundary("outer"), ModuleBoundary("inner", find="always")
    with outer:
        with inner:
            kept = outer.keep(torch.ones(64, 64))
            crossed = outer.cross(torch.ones(64, 64))
        assert inner.held == ()
        kept.sum()
        crossed.sum()
    kept.sum()
    crossed.sum()
