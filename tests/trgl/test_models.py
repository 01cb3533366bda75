import pytest
import torch
from torch import nn

from trgl import models
from trgl.models.resnet110 import PadShortcut
from trgl_kernels import RegularizedBasicBlock, RegularizedPreActBlock


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_a_chain_is_an_encoder_and_blocks_that_keep_its_shape():
    chain = models.chain(20, 32, 1)
    blocks = list(chain.blocks)
    assert len(blocks) == 20
    assert all(type(block) is RegularizedPreActBlock for block in blocks)
    assert [block.bn1 is None for block in blocks] == [True] + [False] * 19
    assert chain(torch.randn(2, 1, 28, 28)).shape == (2, 32, 14, 14)
    # encoder, blocks of two convolutions and two BNs, of which the first block lacks one
    assert count(chain) == 25 * 32 + 64 + 20 * (2 * 9 * 32 * 32 + 128) - 64
    post = models.chain(2, 4, 3, kernel_size=3, stride=1, block="post-activation")
    assert all(type(block) is RegularizedBasicBlock for block in post.blocks)
    assert post(torch.randn(2, 3, 8, 8)).shape == (2, 4, 8, 8)


def test_a_wide_resnet_halves_the_maps_at_its_midpoint():
    wide = models.wide_resnet(4, 4)
    assert wide(torch.randn(2, 3, 32, 32)).shape == (2, 8, 8, 8)
    assert (len(wide.stage1), len(wide.stage2)) == (2, 2)
    assert wide.stage2[0].bn1 is None
    assert wide.down.bias is None
    # the published 2-7 network has 45 million parameters, of which heads take about 3.6
    with torch.device("meta"):
        assert count(models.wide_resnet(14)) == pytest.approx(41.4e6, rel=0.01)


def test_resnet110_has_54_blocks_and_shortcuts_without_parameters():
    with torch.device("meta"):
        net = models.resnet110()
    blocks = [*net.layer1, *net.layer2, *net.layer3]
    assert [len(net.layer1), len(net.layer2), len(net.layer3)] == [18, 18, 18]
    shortcuts = [block.downsample for block in blocks if block.downsample is not None]
    assert len(shortcuts) == 2
    assert sum(count(shortcut) for shortcut in shortcuts) == 0
    # with a linear classifier of ten classes; shortcuts of 1x1 convolutions would add 2752
    assert count(net) + 650 == 1_727_962
    assert all(sum(split) == 54 for split in models.RESNET110_BLOCKS.values())
    assert all(len(split) == modules for modules, split in models.RESNET110_BLOCKS.items())
    small = nn.Sequential(net.layer1[:1], net.layer2[:1], net.layer3[:1]).to_empty(device="cpu")
    assert small(torch.zeros(2, 16, 9, 9)).shape == (2, 64, 3, 3)


def test_the_padding_shortcut_takes_every_second_pixel_and_adds_zeros():
    x = torch.randn(2, 3, 5, 6)
    y = PadShortcut(2)(x)
    assert torch.equal(y[:, :3], x[:, :, ::2, ::2])
    assert torch.equal(y[:, 3:], torch.zeros(2, 2, 3, 3))


def test_orthogonal_initialization():
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(5, 9), nn.Linear(9, 4)
    )
    state = torch.get_rng_state()
    assert models.orthogonal_(net, 0.05, seed=3) is net
    assert torch.equal(torch.get_rng_state(), state)
    for layer in (net[0], net[3], net[4]):
        weight = layer.weight.flatten(1)
        gram = weight @ weight.T if weight.shape[0] <= weight.shape[1] else weight.T @ weight
        torch.testing.assert_close(gram, 0.05**2 * torch.eye(len(gram)), atol=1e-7, rtol=0)
        assert torch.equal(layer.bias, torch.zeros_like(layer.bias))
    assert torch.equal(net[1].weight, torch.ones(8))
    first = net[0].weight.clone()
    assert torch.equal(models.orthogonal_(net, 0.05, seed=3)[0].weight, first)
    assert not torch.equal(models.orthogonal_(net, 0.05, seed=4)[0].weight, first)
    assert not torch.equal(models.orthogonal_(net, 0.05)[0].weight, first)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: models.chain(0), "blocks"),
        (lambda: models.chain(1, filters=-1), "filters"),
        (lambda: models.chain(1, kernel_size=4), "odd"),
        (lambda: models.chain(1, block="bottleneck"), "'bottleneck'"),
        (lambda: models.chain(1, stride=0), "stride"),
        (lambda: models.wide_resnet(1), "at least 2 blocks"),
        (lambda: models.orthogonal_(nn.Linear(2, 2), 0.0), "Use 0.05"),
    ],
)
def test_values_out_of_range_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
