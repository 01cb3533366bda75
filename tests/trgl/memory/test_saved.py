"""Counted bytes: against autograd on real tensors."""

import copy

import pytest
import torch
import torch.nn.functional as F
import torchvision
from oracle import saved_bytes
from small import CLASSES, SHAPE, network
from torch import nn

import trgl
from trgl.memory import SavedCounter, count_module, count_network, count_whole
from trgl_kernels import collect_energy, regularize


def real_bytes(
    module: trgl.GreedyModule, x: torch.Tensor, penalty: bool, images: torch.Tensor | None = None
) -> int:
    """What autograd keeps on tensors with data, beyond x."""

    def loss_of() -> torch.Tensor:
        labels = torch.zeros(x.shape[0], dtype=torch.long)
        features, logits = module(x)
        loss = F.cross_entropy(logits, labels)
        if module.local_loss is not None:
            loss = module.local_loss(loss, features, images, labels)
        return loss

    def function(*_: torch.Tensor) -> list[torch.Tensor]:
        if not penalty:
            return [loss_of()]
        with collect_energy() as energies:
            loss = loss_of()
        return [loss + energies.total()]

    return saved_bytes(function, x, *module.parameters(), *module.buffers())


def resnet18(recompute: str = "activation", **options) -> trgl.GreedyNetwork:
    model = regularize(torchvision.models.resnet18(), recompute)
    return trgl.split(model, 4, (3, 32, 32), 10, **options)


NETWORKS = {
    "chain": lambda: network(3, 4, encoder="stem"),
    "chain-displacement": lambda: network(2, 4, encoder="stem", energy="displacement"),
    "chain-module": lambda: network(2, 4, encoder="stem", energy="module"),
    "chain-frozen": lambda: network(3, 4, encoder="stem", freeze_encoder=True, shared_head=True),
    "chain-post": lambda: network(2, 3, block="post-activation", head="mlp", freeze_head=True),
    "plain": lambda: trgl.split(
        nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Conv2d(4, 4, 3),
            nn.BatchNorm2d(4, momentum=None),
            nn.GELU(),
            nn.MaxPool2d(2),
        ),
        2,
        SHAPE,
        CLASSES,
        "pool-linear",
    ),
    "chain-similarity": lambda: network(2, 3, local_loss="similarity"),
    "chain-reconstruction": lambda: network(2, 3, encoder="stem", local_loss="reconstruction"),
    "resnet18": resnet18,
    "resnet18-heads": lambda: resnet18(recompute_heads=True),
    "resnet18-none": lambda: resnet18("none"),
}


@pytest.mark.parametrize(
    ("name", "penalty"),
    # a network without residual blocks has no energies
    [
        (name, penalty)
        for name in NETWORKS
        for penalty in (False, True)
        if name != "plain" or not penalty
    ],
)
def test_equals_what_autograd_keeps_on_tensors_with_data(name, penalty) -> None:
    greedy = NETWORKS[name]().train()
    batch = 6
    counted = count_network(greedy, batch, penalty=penalty)
    x = images = torch.randn(batch, *greedy.input_shape)
    if isinstance(greedy.encoder, trgl.FrozenEncoder):
        with torch.no_grad():
            x = greedy.encoder(x)
    assert [one.number for one in counted] == [number for number, _ in greedy.trained]
    for saved, (number, module) in zip(counted, greedy.trained, strict=True):
        assert saved.input == x.nbytes
        assert saved.total - saved.input == real_bytes(module, x, penalty and number > 0, images)
        assert [n for n, _ in saved.blocks if n != "body"] == module.body.names
        x = module(x)[0].detach()
    whole = count_whole(greedy, batch, penalty=penalty)
    entered = torch.randn(batch, *greedy.input_shape)
    if isinstance(greedy.encoder, trgl.FrozenEncoder):
        entered = greedy.encoder(entered).detach()
    assert whole.total - whole.input == real_bytes(greedy.whole(), entered, penalty)


def test_leaves_the_network_as_it_is() -> None:
    greedy = network(2, 3, encoder="stem").eval()
    greedy[0].body.requires_grad_(False)
    before = copy.deepcopy(greedy.state_dict())
    state = torch.get_rng_state()
    count_network(greedy, 4)
    assert torch.equal(state, torch.get_rng_state())
    assert not greedy.training
    assert not any(p.requires_grad for p in greedy[0].body.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in greedy.modules())
    for name, value in greedy.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_parts_and_their_sum() -> None:
    greedy = network(2, 4, encoder="stem")
    first = count_network(greedy, 8)[1]
    maps = 8 * 4 * 36 * 4
    assert first.input == maps
    # a pre-activation block without BN and ReLU in front keeps: z, and y, which the next one takes
    sizes = dict(first.blocks)
    assert first.total == first.input + sum(sizes.values()) + first.head
    assert all(maps < size < 4 * maps for size in sizes.values())
    assert 0 < first.head < maps


def test_is_linear_in_the_batch_up_to_a_constant() -> None:
    greedy = resnet18()
    a, b, c = ([one.total for one in count_network(greedy, n)] for n in (5, 6, 9))
    assert all(4 * (q - p) == r - q + (q - p) for p, q, r in zip(a, b, c, strict=True))


def test_autocast_keeps_casts_of_weights_as_well() -> None:
    greedy = resnet18()
    exact = count_network(greedy, 8)
    half = count_network(greedy, 8, autocast=torch.bfloat16)
    assert half[0].total < 0.8 * exact[0].total
    module = greedy[1].train()
    x = torch.randn(8, 64, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        x = greedy[0].train()(torch.randn(8, 3, 32, 32))[0].detach()
        real = real_bytes(module, x, True)
    # torch's BN without data has the vectors of a bfloat16 input in bfloat16
    assert 0 <= real - (half[1].total - half[1].input) <= 2048


def test_refuses_no_batch() -> None:
    greedy = network(2, 3)
    for batch in (0, -1, 2.0, True):
        with pytest.raises(ValueError, match="batch must be a whole number"):
            count_network(greedy, batch)
    with pytest.raises(ValueError, match="batch must be a whole number"):
        count_module(greedy[0], SHAPE, 0)


def test_a_storage_counts_once_and_a_parameter_never() -> None:
    weight = nn.Parameter(torch.randn(4, 4))
    x = torch.randn(3, 4)
    counter = SavedCounter([weight])
    with counter.watch():
        y = x @ weight
        z = (y * y.view(-1).view(3, 4)).exp()
        counter.owner = "later"
        z = z.sin()
    assert counter.total == x.nbytes + y.nbytes + z.nbytes
    assert counter.by_owner() == {"body": 3 * x.nbytes}
