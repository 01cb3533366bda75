"""ResNet blocks: torchvision's outputs, gradients, statistics and keys, and the energy."""

import copy
import pickle

import pytest
import torch
import torch._dynamo.testing
from oracle import READS_GRAD, gradients, saved_bytes
from torch import nn
from torchvision.models import ResNet, resnet

from trgl_kernels import (
    RegularizedBasicBlock,
    RegularizedBottleneck,
    RegularizedPreActBlock,
    collect_energy,
)

PAIRS = {
    "basic": (resnet.BasicBlock, RegularizedBasicBlock),
    "bottleneck": (resnet.Bottleneck, RegularizedBottleneck),
}


def pair(name: str, norm: dict | None = None) -> tuple[nn.Module, nn.Module]:
    """torchvision's block with a downsampling shortcut, and ours with the same weights."""
    plain, ours = PAIRS[name]
    downsample = nn.Sequential(
        nn.Conv2d(8, 8 * plain.expansion, 1, stride=2, bias=False),
        nn.BatchNorm2d(8 * plain.expansion),
    )

    def norm_layer(channels: int) -> nn.BatchNorm2d:
        return nn.BatchNorm2d(channels, **(norm or {}))

    theirs = plain(8, 8, 2, downsample, norm_layer=norm_layer)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.3)
    mine = ours(8, 8, 2, copy.deepcopy(downsample), norm_layer=norm_layer)
    mine.load_state_dict(theirs.state_dict())
    return theirs, mine


NORMS = {
    "default": {},
    "momentum-none": {"momentum": None},
    "untracked": {"track_running_stats": False},
    "no-affine": {"affine": False},
}


@pytest.mark.parametrize("collected", [True, False])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", PAIRS)
def test_equals_torchvision(name, training, norm, collected) -> None:
    # float64: in float32 a sum at a ReLU's kink may fall on different sides in the two
    theirs, mine = (block.double().train(training) for block in pair(name, NORMS[norm]))
    found = []
    for _ in range(3):
        x = torch.randn(4, 8, 6, 6, dtype=torch.float64)
        results = []
        for block in (theirs, mine):
            leaf = x.clone().requires_grad_()
            if collected:
                with collect_energy():
                    y = block(leaf)
            else:
                y = block(leaf)
            inputs = [leaf, *block.parameters()]
            results.append([y, *gradients([y], [torch.ones_like(y)], inputs)])
        found.append(results)
    for expected, actual in found:
        for a, b in zip(actual, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    assert theirs.state_dict().keys() == mine.state_dict().keys()
    for key, value in theirs.state_dict().items():
        torch.testing.assert_close(mine.state_dict()[key], value, msg=key)


@pytest.mark.parametrize("name", PAIRS)
def test_the_energy_is_that_of_the_last_normalization(name) -> None:
    theirs, mine = pair(name)
    last = theirs.bn2 if name == "basic" else theirs.bn3
    residues: list[torch.Tensor] = []
    last.register_forward_hook(lambda module, args, output: residues.append(output.clone()))
    x = torch.randn(4, 8, 6, 6)
    theirs(x)
    with collect_energy() as energies:
        mine(x)
    torch.testing.assert_close(energies.energies[0], residues[0].square().sum((1, 2, 3)))
    assert energies.features == [residues[0][0].numel()]
    torch.testing.assert_close(energies.total(), residues[0].square().mean())


@pytest.mark.parametrize("name", PAIRS)
def test_the_displacement_is_measured_after_the_activation(name) -> None:
    theirs, mine = pair(name)
    x = torch.randn(4, 8, 6, 6)
    y, shortcut = theirs(x), theirs.downsample(x)
    with collect_energy() as energies:
        mine.with_energy("displacement")(x)
    torch.testing.assert_close(energies.total(), (y - shortcut).square().mean())


@pytest.mark.parametrize("place", ["bn2", "relu"])
def test_hooks_are_honoured(place) -> None:
    theirs, mine = pair("basic")
    x = torch.randn(4, 8, 6, 6)
    calls: list[str] = []
    getattr(mine, place).register_forward_hook(lambda *args: calls.append(place))
    with collect_energy() as energies:
        y = mine(x)
    torch.testing.assert_close(y, theirs(x))
    assert calls == [place] * (1 if place == "bn2" else 2)
    assert len(energies) == 1


def test_other_norms_and_activations_run_as_they_are() -> None:
    theirs = resnet.BasicBlock(8, 8, norm_layer=lambda c: nn.GroupNorm(2, c))
    mine = RegularizedBasicBlock(8, 8, norm_layer=lambda c: nn.GroupNorm(2, c))
    mine.load_state_dict(theirs.state_dict())
    theirs.relu = mine.relu = nn.SiLU()
    x = torch.randn(4, 8, 6, 6)
    with collect_energy() as energies:
        torch.testing.assert_close(mine(x), theirs(x))
    r = theirs.bn2(theirs.conv2(theirs.relu(theirs.bn1(theirs.conv1(x)))))
    torch.testing.assert_close(energies.total(), r.square().mean())


@pytest.mark.parametrize("block", [RegularizedBasicBlock, RegularizedBottleneck])
def test_torchvision_builds_its_resnet_from_the_block(block) -> None:
    model = ResNet(block, [1, 1, 1, 1], num_classes=5, zero_init_residual=True)
    with collect_energy() as energies:
        assert model(torch.randn(2, 3, 32, 32)).shape == (2, 5)
    assert len(energies) == 4
    torch.testing.assert_close(energies.total(), torch.zeros(()))  # zero_init_residual: r = 0


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("channels", [8, 12])
def test_pre_activation(first, channels) -> None:
    block = RegularizedPreActBlock(8, channels, first=first)
    x = torch.randn(4, 8, 6, 6)
    active = x if first else block.bn1(x).relu()
    r = block.conv2(block.bn2(block.conv1(active)).relu())
    shortcut = x if block.shortcut is None else block.shortcut(active)
    assert (block.bn1 is None) == first
    assert (block.shortcut is None) == (channels == 8)
    with collect_energy() as energies:
        torch.testing.assert_close(block(x), shortcut + r)
    torch.testing.assert_close(energies.total(), r.square().mean())


def test_the_input_is_not_changed() -> None:
    for block in (RegularizedPreActBlock(8, 8), RegularizedPreActBlock(8, 8, first=True)):
        x = torch.randn(4, 8, 6, 6)
        before = x.clone()
        block(x)
        assert torch.equal(x, before)


def test_an_empty_batch_passes_in_evaluation() -> None:
    block = RegularizedBasicBlock(8, 8).eval()
    with collect_energy() as energies:
        assert block(torch.zeros(0, 8, 4, 4)).shape == (0, 8, 4, 4)
    assert energies.energies[0].shape == (0,)
    assert energies.features == [128]


MAPS = {
    # maps beyond the input and the output that autograd holds, penalty on and off
    "basic": (lambda: RegularizedBasicBlock(8, 8), 3, 3),
    "bottleneck": (lambda: RegularizedBottleneck(32, 8), None, None),
    "pre-activation": (lambda: RegularizedPreActBlock(8, 8), 5 - 1, 4 - 1),
}


@pytest.mark.parametrize("name", MAPS)
def test_saved_bytes(name) -> None:
    build, penalized, plain = MAPS[name]
    block = build()
    x = torch.randn(4, block.conv1.in_channels, 6, 6, requires_grad=True)

    def run(collected: bool) -> int:
        def function(*inputs: torch.Tensor) -> list[torch.Tensor]:
            if not collected:
                return [block(inputs[0])]
            with collect_energy() as energies:
                y = block(inputs[0])
            return [y, energies.energies[0]]

        return saved_bytes(function, x, *block.parameters(), *block.buffers())

    vectors = sum(
        2 * 4 * bn.num_features for bn in block.modules() if isinstance(bn, nn.BatchNorm2d)
    )
    if penalized is None:  # four maps of the narrow width, one of the wide
        narrow, wide = x.nbytes * 8 // 32, x.nbytes
        assert run(True) == run(False) == 4 * narrow + wide + vectors
    else:
        assert run(True) == penalized * x.nbytes + vectors
        assert run(False) == plain * x.nbytes + vectors


@pytest.mark.parametrize("change", ["hook", "silu"])
@pytest.mark.parametrize("name", PAIRS)
def test_the_displacement_follows_an_activation_that_is_not_fused(name, change) -> None:
    theirs, mine = pair(name)
    if change == "silu":
        theirs.relu = mine.relu = nn.SiLU()
    else:
        mine.relu.register_forward_hook(lambda *args: None)
    x = torch.randn(4, 8, 6, 6)
    y, shortcut = theirs(x), theirs.downsample(x)
    with collect_energy() as energies:
        mine.with_energy("displacement")(x)
    torch.testing.assert_close(energies.total(), (y - shortcut).square().mean())


def test_a_replaced_forward_of_the_norm_is_called() -> None:
    block = RegularizedBasicBlock(8, 8)
    block.bn2.forward = torch.zeros_like
    x = torch.randn(4, 8, 6, 6)
    torch.testing.assert_close(block(x), x.relu())


def test_a_norm_may_keep_its_tensors_as_plain_attributes() -> None:
    # as the replicas of nn.DataParallel do
    _, block = pair("basic")
    x = torch.randn(2, 8, 6, 6)
    block.eval()
    expected = block(x)
    for name in ("weight", "bias"):
        weight = block.bn2._parameters.pop(name)
        setattr(block.bn2, name, weight.detach())
    mean = block.bn2._buffers.pop("running_mean")
    block.bn2.running_mean = mean
    torch.testing.assert_close(block(x), expected, rtol=0, atol=0)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_blocks_can_be_copied(copied) -> None:
    block = RegularizedBasicBlock(8, 8).eval()
    x = torch.randn(4, 8, 6, 6)
    assert torch.equal(copied(block)(x), block(x))


@READS_GRAD
@pytest.mark.parametrize("mode", ["none", "activation"])
def test_a_block_compiles_once_for_all_its_places(mode) -> None:
    counter = torch._dynamo.testing.CompileCounter()
    blocks = [RegularizedPreActBlock(4, 4).with_recompute(mode) for _ in range(10)]
    for block in blocks:
        block.compile(backend=counter, fullgraph=True)
    x = torch.randn(2, 4, 5, 5)
    with collect_energy() as energies:
        for block in blocks:
            x = block(x)
    assert len(energies) == 10
    assert counter.frame_count <= 2
