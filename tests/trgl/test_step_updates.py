"""From a module's gradients to its optimizers: accumulation, clipping, and loss scaling."""

import pytest
import torch
from small import CLASSES, batches, differing, network, sgd, state
from steps import CRITERION, local_step, plain_sgd, residual_module
from torch import nn

from trgl import Transport

X, LABELS = batches()[0]


@pytest.mark.parametrize("transport", [None, Transport(0.1)], ids=["vanilla", "transport"])
def test_accumulated_batches_count_as_one(transport):
    x, labels = torch.randn(12, 4), torch.arange(12) % CLASSES
    module, twin = residual_module(), residual_module()
    step = local_step(module, accumulate=3, clip_norm=0.3, transport=transport)
    before = state(module)
    for part in range(3):
        assert not differing(before, state(module))
        step(x[4 * part : 4 * part + 4], labels[4 * part : 4 * part + 4])
    local_step(twin, clip_norm=0.3, transport=transport)(x, labels)
    for mine, wanted in zip(module.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine, wanted)


def test_what_is_left_at_the_end_of_an_epoch_is_averaged_over_what_there_was():
    x, labels = torch.randn(8, 4), torch.arange(8) % CLASSES
    module, twin = residual_module(), residual_module()
    step = local_step(module, accumulate=5)
    step(x[:4], labels[:4])
    step(x[4:], labels[4:])
    step.update()
    local_step(twin)(x, labels)
    for mine, wanted in zip(module.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine, wanted)
    moved = state(module)
    step.update()  # nothing is left
    assert not differing(moved, state(module))


def shared_head_steps(accumulate):
    head = nn.Linear(4, CLASSES)
    torch.manual_seed(5)
    nn.init.normal_(head.weight)
    nn.init.zeros_(head.bias)
    optimizer = plain_sgd(head.parameters())
    modules = [residual_module(seed) for seed in (0, 1)]
    steps = []
    for module in modules:
        module.head = head
        own = plain_sgd(module.body.parameters())
        shared = list(head.parameters())
        steps.append(
            local_step(module, optimizers=[own, optimizer], accumulate=accumulate, shared=shared)
        )
    return head, modules, steps


def test_a_shared_head_keeps_the_accumulated_gradients_of_its_modules_apart():
    x, labels = torch.randn(8, 4), torch.arange(8) % CLASSES
    halves = [(x[:4], labels[:4]), (x[4:], labels[4:])]
    head, _, steps = shared_head_steps(accumulate=2)
    for part, targets in halves:
        features = steps[0](part, targets)
        steps[1](features, targets)

    # By hand. Module 1 steps the head with its gradient of both halves. Module 2 saw the head as
    # it was with the first half, and as module 1 left it with the second.
    twin, (first, second), _ = shared_head_steps(accumulate=1)
    crossing = [first.body(part).detach() for part, _ in halves]

    def gradient(features, targets):
        loss = CRITERION(twin(features), targets)
        return torch.autograd.grad(loss, list(twin.parameters()))

    def step_by(*gradients):
        with torch.no_grad():
            for parameter, *parts in zip(twin.parameters(), *gradients, strict=True):
                parameter -= 0.1 * sum(parts) / len(parts)

    early = gradient(second.body(crossing[0]), labels[:4])
    step_by(*(gradient(y, targets) for y, (_, targets) in zip(crossing, halves, strict=True)))
    late = gradient(second.body(crossing[1]), labels[4:])
    step_by(early, late)
    for found, wanted in zip(head.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(found, wanted)


def test_clipping_bounds_the_gradient_of_body_and_head_together():
    module, twin = residual_module(), residual_module()
    x, labels = 30 * torch.randn(6, 4), torch.arange(6) % CLASSES
    local_step(module, clip_norm=0.01)(x, labels)
    pairs = zip(module.parameters(), twin.parameters(), strict=True)
    moved = torch.cat([(a - b).detach().flatten() for a, b in pairs])
    assert moved.norm().item() == pytest.approx(0.1 * 0.01, rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_lowers_the_precision_and_trains_all_the_same(dtype):
    net = network(modules=1)
    step = local_step(net[0], sgd, autocast=dtype, transport=Transport(1.0), clip_norm=5.0)
    assert (step.scaler is not None) == (dtype is torch.float16)
    if step.scaler is not None:
        step.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    losses = []
    for _ in range(12):
        step.meter.reset()
        features = step(X, LABELS)
        losses.append(step.meter.sums[0].item())
    assert losses[-1] < 0.7 * losses[0]
    assert step.skip(X).dtype == features.dtype
    exact = network(modules=1)
    reference = local_step(exact[0], sgd, transport=Transport(1.0), clip_norm=5.0)
    assert not torch.equal(reference(X, LABELS), features)


def test_loss_scaling_skips_a_step_that_overflows():
    module = residual_module()
    step = local_step(module, autocast=torch.float16)
    before = state(module)
    step.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    x, labels = torch.randn(6, 4), torch.arange(6) % CLASSES
    for _ in range(3):
        step(1e4 * x, labels)
    assert step.scaler.get_scale() == 2.0**37
    assert not differing(before, state(module))


def test_a_run_begins_without_the_gradients_of_another_backward_pass():
    x, labels = torch.randn(8, 4), torch.arange(8) % CLASSES
    head, modules, steps = shared_head_steps(accumulate=2)
    twin, others, wanted = shared_head_steps(accumulate=2)
    modules[0](x)[1].sum().backward()  # someone looked at gradients
    steps[0].begin()
    steps[0](x, labels)  # a run that was interrupted: one batch of two, its gradients held back
    assert all(parameter.grad is None for parameter in head.parameters())
    steps[0].begin()
    for step in (steps[0], wanted[0]):
        step(x, labels)
        step(-x, labels)
    assert not differing(state(modules[0]), state(others[0]))
    assert not differing(state(head), state(twin))


def test_a_loss_scaler_goes_on_after_a_step_that_was_interrupted():
    step = local_step(residual_module(), autocast=torch.float16)
    x, labels = torch.randn(6, 4), torch.arange(6) % CLASSES
    step.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    step.clip_norm = "broken"
    with pytest.raises(ValueError, match="broken"):
        step(x, labels)
    step.clip_norm = None
    step.begin()
    before = state(step.module)
    step(x, labels)
    assert differing(before, state(step.module))
    assert step.scaler.get_scale() == 8.0


@pytest.mark.parametrize("clip_norm", [None, 1.0])
@pytest.mark.parametrize("where", ["body", "head"])
def test_an_overflow_anywhere_in_the_module_skips_all_its_optimizers(clip_norm, where):
    module = residual_module()
    parts = [module.body, module.head]
    optimizers = [sgd(list(part.parameters())) for part in parts]  # with weight decay
    step = local_step(module, optimizers=optimizers, autocast=torch.float16, clip_norm=clip_norm)
    step.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    before = state(module)
    one = next(getattr(module, where).parameters())
    handle = one.register_hook(lambda gradient: gradient * float("inf"))
    x, labels = torch.randn(6, 4), torch.arange(6) % CLASSES
    step(x, labels)
    assert not differing(before, state(module))
    assert step.scaler.get_scale() == 4.0
    handle.remove()
    step(x, labels)
    assert len(differing(before, state(module))) == len(before)
    assert all(value.isfinite().all() for value in module.state_dict().values())
