"""collect_energy: scopes, threads, exceptions, checkpointing, and the total."""

import threading

import pytest
import torch
from oracle import DEVICE, FORWARD_MODE_SCRIPTS, READS_GRAD
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils.checkpoint import checkpoint

from trgl_kernels import (
    RegularizedBasicBlock,
    RegularizedPreActBlock,
    RegularizedResidual,
    collect_energy,
)
from trgl_kernels.boundary import live_bytes
from trgl_kernels.collect import checkpoint_contexts, current, no_energy
from trgl_kernels.extension import load


def block(width: int = 6) -> RegularizedResidual:
    return RegularizedResidual(nn.Linear(width, width))


def test_total_is_the_mean_over_the_batch_of_the_sum_over_blocks() -> None:
    first, second, x = block(), block(), torch.randn(5, 6)
    with collect_energy() as energies:
        y = first(x)
        second(y)
    squares = first.branch(x).square() + second.branch(y).square()
    assert len(energies) == 2
    torch.testing.assert_close(energies.total(), squares.mean())
    torch.testing.assert_close(energies.total("sum"), squares.sum(1).mean())


def test_each_block_is_averaged_over_its_own_features() -> None:
    wide, narrow = block(6), block(3)
    with collect_energy() as energies:
        wide(torch.randn(4, 6))
        narrow(torch.randn(4, 3))
    expected = energies.energies[0].mean() / 6 + energies.energies[1].mean() / 3
    torch.testing.assert_close(energies.total(), expected)


def test_maps_without_an_element_cost_nothing() -> None:
    layer, x = RegularizedResidual(nn.Identity()), torch.zeros(2, 0, requires_grad=True)
    with collect_energy() as energies:
        layer(x)
    assert energies.total() == 0


def test_total_can_be_differentiated_after_the_scope() -> None:
    layer, x = block(), torch.randn(5, 6)
    with collect_energy() as energies:
        layer(x)
    energies.total().backward()
    expected = torch.autograd.grad(layer.branch(x).square().mean(), layer.branch.weight)[0]
    torch.testing.assert_close(layer.branch.weight.grad, expected)


def test_the_exponent_is_the_collectors() -> None:
    layer, x = block(), torch.randn(5, 6)
    with collect_energy(p=1.5) as energies:
        layer(x)
    torch.testing.assert_close(energies.total(), layer.branch(x).abs().pow(1.5).mean())


def test_nothing_is_computed_outside() -> None:
    assert current() is None
    layer, x = block(), torch.randn(5, 6)
    torch.testing.assert_close(layer(x), x + layer.branch(x))


def test_scopes_nest_and_the_innermost_collects() -> None:
    layer, x = block(), torch.randn(5, 6)
    with collect_energy() as outer:
        layer(x)
        with collect_energy() as inner:
            layer(x)
        with no_energy():
            layer(x)
        layer(x)
    assert (len(outer), len(inner)) == (2, 1)


def test_an_exception_closes_the_scope() -> None:
    with pytest.raises(KeyError), collect_energy():
        raise KeyError
    assert current() is None


def test_threads_do_not_see_each_others_scopes() -> None:
    seen: list[object] = []
    with collect_energy():
        thread = threading.Thread(target=lambda: seen.append(current()))
        thread.start()
        thread.join()
    assert seen == [None]


def test_an_empty_scope_has_no_total() -> None:
    with collect_energy() as energies:
        nn.Linear(3, 3)(torch.randn(2, 3))
    with pytest.raises(ValueError, match="at least one regularized block must run"):
        energies.total()


def test_mistakes_are_explained() -> None:
    with (
        pytest.raises(ValueError, match="exponent p must be finite and at least 1"),
        collect_energy(0.5),
    ):
        pass
    with pytest.raises(ValueError, match=r"an int or a float; received '2'\. Convert it"):
        collect_energy("2")
    with collect_energy() as energies:
        block()(torch.randn(2, 6))
    with pytest.raises(ValueError, match="reduction must be 'mean' or 'sum'"):
        energies.total("max")


def test_energies_of_several_devices_meet_on_that_of_the_last() -> None:
    with FakeTensorMode(), collect_energy() as energies:
        energies.add(torch.ones(3, device="cpu"), 4)
        energies.add(torch.ones(3, device="cuda:1"), 4)
        assert energies.total().device == torch.device("cuda:1")


def test_checkpointing_counts_every_energy_once() -> None:
    layer, x = block(), torch.randn(5, 6, requires_grad=True)
    with collect_energy() as energies:
        y = checkpoint(layer, x, use_reentrant=False, context_fn=checkpoint_contexts)
        (y.sum() + energies.total()).backward()
    assert len(energies) == 1
    found = layer.branch.weight.grad.clone()
    layer.zero_grad()
    with collect_energy() as energies:
        (layer(x).sum() + energies.total()).backward()
    torch.testing.assert_close(found, layer.branch.weight.grad)


def test_a_recomputation_outside_a_scope_collects_nothing() -> None:
    layer, x = block(), torch.randn(5, 6, requires_grad=True)
    y = checkpoint(layer, x, use_reentrant=False, context_fn=checkpoint_contexts)
    with collect_energy() as energies:
        y.sum().backward()
    assert len(energies) == 0


def total_of(energies: list[Tensor], weights: list[float]) -> Tensor:
    return torch.ops.trgl._total_energy.default(energies, weights)


def test_total_of_energies_of_several_sizes_and_types() -> None:
    energies = [torch.rand(n, dtype=dtype) for n in (3, 5, 3) for dtype in (torch.float32,) * 2]
    energies.append(torch.rand(3, dtype=torch.float64))
    leaves = [e.requires_grad_() for e in energies]
    weights = [0.5, 2.0, 1.0, 1.0, 0.25, 4.0, 1.0]
    total = total_of(leaves, weights)
    expected = sum(w * e.double().mean() for w, e in zip(weights, leaves, strict=True))
    assert total.dtype == torch.float64
    torch.testing.assert_close(total, expected, rtol=1e-6, atol=0)  # float32 means
    for weight, leaf, gradient in zip(
        weights, leaves, torch.autograd.grad(total, leaves), strict=True
    ):
        torch.testing.assert_close(gradient, torch.full_like(leaf, weight / len(leaf)))
    recorded = torch.autograd.grad(3.0 * total_of(leaves, weights), leaves, create_graph=True)
    plain = torch.autograd.grad(3.0 * total_of(leaves, weights), leaves)
    for one, other in zip(recorded, plain, strict=True):
        torch.testing.assert_close(one, other)


def test_gradients_of_a_total_can_be_batched() -> None:
    energies = [torch.rand(3, requires_grad=True) for _ in range(3)]
    total = total_of(energies, [0.5, 0.5, 2.0])
    several = torch.tensor([1.0, 6.0])
    found = torch.autograd.grad(total, energies, several, is_grads_batched=True)
    for gradient, weight in zip(found, (0.5, 0.5, 2.0), strict=True):
        torch.testing.assert_close(gradient, (several * weight / 3)[:, None].expand(2, 3))


def test_gradients_of_a_total_have_an_operator() -> None:
    arguments = (torch.tensor(6.0), [3, 0, 2], [0.5, 2.0, 1.0])
    torch.library.opcheck(torch.ops.trgl._total_energy_backward.default, arguments)
    found = torch.ops.trgl._total_energy_backward.default(*arguments)
    for gradient, expected in zip(found, ([1.0] * 3, [], [3.0] * 2), strict=True):
        torch.testing.assert_close(gradient, torch.tensor(expected))


@FORWARD_MODE_SCRIPTS
@pytest.mark.skipif(not load().loaded, reason="plain PyTorch sums up without the extension")
def test_total_refuses_forward_mode() -> None:
    with collect_energy() as energies, torch.autograd.forward_ad.dual_level():
        energies.add(torch.autograd.forward_ad.make_dual(torch.ones(2), torch.ones(2)), 4)
        with pytest.raises(NotImplementedError, match="collector's energies"):
            energies.total()


@READS_GRAD
def test_total_is_derived_by_autograd() -> None:
    def total(*energies):
        return torch.ops.trgl._total_energy.default(list(energies), [0.5, 2.0])

    energies = [torch.rand(n, dtype=torch.float64, requires_grad=True) for n in (3, 4)]
    assert torch.autograd.gradcheck(total, energies)
    torch.library.opcheck(
        torch.ops.trgl._total_energy.default, (energies, [0.5, 2.0]), raise_exception=True
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda: RegularizedBasicBlock(4, 4),
        lambda: RegularizedPreActBlock(4, 4).with_recompute("activation"),
        lambda: RegularizedResidual(nn.Conv2d(4, 4, 3, padding=1), activation="relu"),
    ],
    ids=["basic", "pre-activation", "residual"],
)
def test_checkpointing_leaves_nothing_behind(make) -> None:
    if not load().loaded or DEVICE != "cpu":
        pytest.skip("live bytes are those of CPU tensors, counted by the compiled extension")
    layer, x = make(), torch.randn(2, 4, 16, 16, requires_grad=True)
    live = []
    for _ in range(4):  # checkpointing stops the second run as soon as it has what it wants
        with collect_energy() as energies:
            y = checkpoint(layer, x, use_reentrant=False, context_fn=checkpoint_contexts)
        (y.sum() + energies.total()).backward()
        del y, energies
        live.append(live_bytes())
    assert live[1:] == [live[1]] * 3
