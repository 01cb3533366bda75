"""One module and one batch: the loss that it descends, and what it leaves behind."""

import pytest
import torch
from small import CLASSES, batches, differing, network, state
from steps import CRITERION, local_step, residual_module
from torch import nn

from trgl import Multipliers, Transport
from trgl.body import Body
from trgl_kernels import collect, collect_energy

X, LABELS = batches()[0]


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("p", [2.0, 3.0])
def test_the_step_descends_the_loss_of_the_paper(reduction, p):
    x, labels = torch.randn(6, 4), torch.arange(6) % CLASSES
    module, twin = residual_module(), residual_module()
    step = local_step(module, transport=Transport(0.05, reduction=reduction, p=p))
    features = step(x, labels)

    y, cost = x, torch.zeros(())
    for unit in twin.body.units:
        residue = unit.branch(y)
        divisor = 4 if reduction == "mean" else 1
        cost = cost + residue.abs().pow(p).sum(1).mean() / divisor
        y = y + residue
    loss = CRITERION(twin.head(y), labels) + cost / (2 * 0.05)
    loss.backward()
    for mine, parameter in zip(module.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine.detach(), (parameter - 0.1 * parameter.grad).detach())
    torch.testing.assert_close(features, y.detach())
    sums = step.meter.sums / 6
    torch.testing.assert_close(sums[0].float(), CRITERION(twin.head(y), labels).detach())
    torch.testing.assert_close(sums[1].float(), cost.detach())
    assert step.meter.sums[2] == (twin.head(y).argmax(1) == labels).sum()


def test_no_gradient_crosses_the_boundary():
    net = network(modules=2)
    first, second = (local_step(module, transport=Transport(0.1)) for module in net)
    features = first(X, LABELS)
    assert not features.requires_grad
    assert features.grad_fn is None
    before = state(net[0])
    touched = []
    for parameter in net[0].parameters():
        parameter.register_hook(lambda gradient: touched.append(gradient))
    second(features, LABELS)
    assert not touched
    assert all(parameter.grad is None for parameter in net.parameters())
    assert not differing(before, state(net[0]))


def test_what_the_next_replay_of_a_graph_overwrites_is_copied():
    for replayed in (False, True):
        module, own = residual_module(), []
        module.body.register_forward_hook(lambda _, __, y, own=own: own.append(y.data_ptr()))
        features = local_step(module, replayed=replayed)(
            torch.randn(6, 4), torch.arange(6) % CLASSES
        )
        assert (features.data_ptr() in own) != replayed
        assert features.grad_fn is None


def test_gradients_and_graphs_do_not_outlive_the_step():
    module = residual_module()
    step = local_step(module)
    features = step(torch.randn(6, 4), torch.arange(6) % CLASSES)
    assert features.grad_fn is None
    assert all(parameter.grad is None for parameter in module.parameters())


def test_without_transport_no_energy_is_computed():
    class Watch(nn.Module):
        def forward(self, x):
            found.append(collect.current())
            return x

    found = []
    module = residual_module()
    module.body = Body([*module.body.named_units(), ("watch", Watch())])
    x, labels = torch.randn(6, 4), torch.arange(6) % CLASSES
    local_step(module)(x, labels)
    assert found == [None]
    local_step(module, transport=Transport(1.0))(x, labels)
    assert found[1] is not None


def test_multipliers_take_part_in_the_step():
    module, twin = residual_module(), residual_module()
    x, labels = torch.randn(6, 4), torch.arange(6) % CLASSES
    step = local_step(module, transport=Multipliers(initial=0.5, growth=2.0, every=1))
    step(x, labels)
    with collect_energy() as energies:
        _, logits = twin(x)
    first = CRITERION(logits, labels)
    (first + energies.total() / 0.5).backward()
    for mine, parameter in zip(module.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine.detach(), (parameter - 0.1 * parameter.grad).detach())
    second = CRITERION(module(x)[1], labels).item()
    step(x, labels)
    assert step.weights.current() == pytest.approx([0.5 + 2 * second])


def test_a_skipped_module_neither_learns_nor_counts():
    net = network(modules=1).eval()
    before = state(net)
    features = local_step(net[0]).skip(X)
    assert not features.requires_grad
    assert torch.equal(features, net[0].body(X))
    assert not differing(before, state(net))


def test_a_criterion_that_does_not_reduce_is_refused():
    step = local_step(residual_module(), criterion=nn.CrossEntropyLoss(reduction="none"))
    with pytest.raises(ValueError, match=r"module 1 returned shape \[6\]"):
        step(torch.randn(6, 4), torch.arange(6) % CLASSES)


def test_a_criterion_without_a_graph_is_refused():
    def detached(logits, labels):
        return CRITERION(logits, labels).detach()

    with pytest.raises(ValueError, match=r"that of module 1 has no graph.*without detach"):
        local_step(residual_module(), criterion=detached)(torch.randn(6, 4), LABELS[:6])


def test_soft_labels_count_by_their_largest_entry():
    module = residual_module()
    x, labels = torch.randn(6, 4), torch.arange(6) % CLASSES
    hard, soft = local_step(module), local_step(module)
    soft(x, nn.functional.one_hot(labels, CLASSES).float() * 0.8 + 0.05)
    module.load_state_dict(residual_module().state_dict())
    hard(x, labels)
    assert hard.meter.sums[2] == soft.meter.sums[2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clip_norm": "1"}, "clip_norm must be a positive number"),
        ({"clip_norm": True}, "got True"),
        ({"clip_norm": float("nan")}, "got nan"),
        ({"accumulate": 1.5}, "accumulate must be a whole number"),
        ({"accumulate": True}, "got True"),
        ({"autocast": "bf16"}, "got 'bf16'"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        local_step(residual_module(), **options)
