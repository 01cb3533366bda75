"""Predicted peaks against every allocation and release of torch's allocator."""

import random

import pytest
import torch
import torchvision
from small import network
from torch import nn
from torch._subclasses import FakeTensorMode

import trgl
from trgl.forecast import Peak, group_updates, largest_batch, predict_steps
from trgl.measure import measure_steps
from trgl.memory import count_network
from trgl.memory_table import network_of
from trgl.zoo import subject
from trgl_kernels import RegularizedResidual, regularize

PENALTY = trgl.Transport(tau=0.5)


def resnet110(recompute: str = "activation", **options) -> trgl.GreedyNetwork:
    model = regularize(trgl.models.resnet110(), recompute)
    counts = trgl.models.RESNET110_BLOCKS[4]
    return trgl.split(model, 4, (3, 16, 16), 10, "conv", counts, **options)


def resnet18(recompute: str = "activation", **options) -> trgl.GreedyNetwork:
    model = regularize(torchvision.models.resnet18(), recompute)
    return trgl.split(model, 4, (3, 64, 64), 10, "conv", **options)


def vit() -> trgl.GreedyNetwork:
    model = torchvision.models.VisionTransformer(
        image_size=32, patch_size=4, num_layers=4, num_heads=2, hidden_dim=32, mlp_dim=64
    )
    return trgl.split(model, 2, (3, 32, 32), 10, "pool-linear")


def vgg() -> trgl.GreedyNetwork:
    layers: list[nn.Module] = []
    for width, channels in ((3, 16), (16, 16), (16, 32), (32, 32)):
        layers += [nn.Conv2d(width, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU()]
    layers.insert(6, nn.MaxPool2d(2))
    model = torchvision.models.VGG(nn.Sequential(*layers))
    return trgl.split(model, 2, (3, 32, 32), 10, "conv", energy="displacement")


def linear() -> trgl.GreedyNetwork:
    blocks = (RegularizedResidual(nn.Linear(512, 512), activation="relu") for _ in range(4))
    return trgl.split(nn.Sequential(*blocks), 2, (512,), 10, "linear")


CASES = {
    "resnet110-vanilla": (lambda: resnet110("none"), {}),
    "resnet110-regularized": (lambda: resnet110("none"), {"transport": PENALTY}),
    "resnet110-recompute": (resnet110, {"transport": PENALTY}),
    "resnet110-end-to-end": (lambda: resnet110("none"), {"regime": "end-to-end"}),
    "resnet18-vanilla": (lambda: resnet18("none"), {}),
    "resnet18-recompute": (resnet18, {"transport": PENALTY}),
    "resnet18-heads": (lambda: resnet18(recompute_heads=True), {"transport": PENALTY}),
    "resnet18-memory": (lambda: resnet18(balance="memory"), {"transport": PENALTY}),
    "resnet18-end-to-end": (lambda: resnet18("none"), {"regime": "end-to-end"}),
    "resnet18-adam": (
        resnet18,
        {"optimizer": lambda parameters: torch.optim.AdamW(parameters, foreach=False)},
    ),
    "resnet18-similarity": (lambda: resnet18(local_loss="similarity"), {"transport": PENALTY}),
    "resnet18-reconstruction": (
        lambda: resnet18(local_loss="reconstruction"),
        {"transport": PENALTY},
    ),
    "resnet18-bfloat16": (resnet18, {"transport": PENALTY, "autocast": torch.bfloat16}),
    "linear-bfloat16": (linear, {"transport": PENALTY, "autocast": torch.bfloat16}),
    "resnet18-channels-last": (
        lambda: resnet18().to(memory_format=torch.channels_last),
        {"transport": PENALTY},
    ),
    "vit": (vit, {"transport": PENALTY}),
    "vgg-displacement": (vgg, {"transport": PENALTY}),
    "encoder": (lambda: network(2, 2, encoder="stem"), {"transport": PENALTY}),
    "frozen-encoder": (
        lambda: network(2, 2, encoder="stem", freeze_encoder=True, shared_head=True),
        {"transport": PENALTY},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_predicts_what_is_measured(name) -> None:
    build, options = CASES[name]
    convolves = name != "linear-bfloat16"
    if convolves and "autocast" in options and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("PyTorch unrolls bfloat16 maps where oneDNN cannot convolve them")
    greedy = build()
    # with maps of a few KiB, what operators keep for their sums is more than 3 % of a step
    batch = 256 if "encoder" in name or "linear" in name else 8
    predicted = predict_steps(greedy, batch, **options)
    measured = measure_steps(greedy, batch, **options)
    assert [one.number for one in predicted] == [one.number for one in measured]
    for one, other in zip(predicted, measured, strict=True):
        assert one.activations == pytest.approx(other.activations, rel=0.03)
        assert one.activations <= one.total
        assert other.activations <= other.allocated


@pytest.mark.parametrize("regime", ["parallel", "end-to-end"])
def test_states_of_optimizers_are_there_while_a_module_trains(regime) -> None:
    greedy = resnet110("none")
    weights = [p for _, module in greedy.trained for p in module.parameters()]
    if regime == "end-to-end":
        weights = list(greedy.whole().parameters())
    size = sum(p.numel() * p.element_size() for p in weights)

    def totals(momentum: float) -> list[int]:
        def optimizer(parameters):
            return torch.optim.SGD(parameters, lr=0.1, momentum=momentum)

        return [one.total for one in predict_steps(greedy, 32, regime=regime, optimizer=optimizer)]

    for plain, with_state in zip(totals(0), totals(0.9), strict=True):
        assert with_state - plain == size


def test_predicts_checkpointed_training() -> None:
    chosen = subject("resnet18", (3, 64, 64), 10)
    model = chosen.build()
    plain, again = (network_of(chosen, model, m, 1) for m in ("end-to-end", "checkpointed"))
    (expected,) = measure_steps(again, 8, regime="end-to-end")
    (found,) = predict_steps(again, 8, regime="end-to-end")
    assert found.activations == pytest.approx(expected.activations, rel=0.03)
    assert found.activations < predict_steps(plain, 8, regime="end-to-end")[0].activations


def test_counts_at_least_what_is_saved_and_leaves_the_network() -> None:
    greedy = resnet18().eval()
    before = {name: value.clone() for name, value in greedy.state_dict().items()}
    peaks = predict_steps(greedy, 16, transport=PENALTY)
    for saved, peak in zip(count_network(greedy, 16), peaks, strict=True):
        assert saved.total <= peak.activations
    assert not greedy.training
    assert all(p.grad is None for p in greedy.parameters())
    assert all(torch.equal(before[name], value) for name, value in greedy.state_dict().items())


def test_predicts_any_batch() -> None:
    greedy = resnet18()
    small, large = (predict_steps(greedy, n) for n in (1000, 100_000))
    for a, b in zip(small, large, strict=True):
        assert isinstance(a, Peak)
        assert b.activations == pytest.approx(100 * a.activations, rel=0.01)


def test_refuses_other_regimes_and_batches() -> None:
    greedy = network(2, 2)
    with pytest.raises(ValueError, match="regime 'parallel' or 'end-to-end'"):
        predict_steps(greedy, 4, regime="sequential")
    for function in (predict_steps, measure_steps):
        with pytest.raises(ValueError, match="batch must be"):
            function(greedy, 0)


def test_the_largest_batch_is_exact() -> None:
    draw = random.Random(0)
    for _ in range(300):
        constant, late = draw.randint(0, 1000), draw.randint(2, 300)
        slow, fast = draw.randint(0, 50), draw.randint(1, 80)
        limit, asked = draw.randint(1, 20_000), []

        def total(n: int, a=constant, b=slow, c=fast, k=late, asked=asked) -> int:
            asked.append(n)
            return a + max(b * n, c * n - k * c)

        found = largest_batch(total, limit)
        assert len(asked) < 25
        assert min(asked) >= 2
        if found == 0:
            assert total(2) > limit
        else:
            assert total(found) <= limit < total(found + 1)
    assert largest_batch(lambda n: 5, 10, most=100) == 100


def test_the_largest_batch_of_a_network_fits_and_the_next_does_not() -> None:
    greedy = resnet18()

    def total(batch: int) -> int:
        return max(peak.total for peak in predict_steps(greedy, batch))

    limit = 300 * 2**20
    batch = largest_batch(total, limit)
    assert total(batch) <= limit < total(batch + 1)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_on_a_gpu_optimizers_are_taken_to_update_all_at_once(device: str) -> None:
    with FakeTensorMode():
        layer = nn.Linear(64, 64, device=device)
        given = {
            "left out": torch.optim.SGD(layer.parameters(), lr=0.1, weight_decay=0.1),
            "Adam": torch.optim.Adam(layer.parameters()),
            "one by one": torch.optim.SGD(layer.parameters(), lr=0.1, foreach=False),
            "fused": torch.optim.SGD(layer.parameters(), lr=0.1, fused=True),
            "no such choice": torch.optim.LBFGS(layer.parameters()),
        }
        group_updates(list(given.values()))
        chosen = {name: one.param_groups[0].get("foreach") for name, one in given.items()}
        default = True if device == "cuda" else None
        assert chosen == {
            "left out": default,
            "Adam": default,
            "one by one": False,
            "fused": None,
            "no such choice": None,
        }
        for parameter in layer.parameters():
            parameter.grad = torch.zeros_like(parameter)
        given["left out"].step()
