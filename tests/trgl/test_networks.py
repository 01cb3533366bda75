"""Every network by name: its parameters, its blocks in modules, and the energies of a step."""

import math

import pytest
import torch
import torchvision
from meta import on_meta, recipe_of, split_on_meta
from small import differing, state
from torch import nn

import trgl
from trgl import models
from trgl.build import build_network
from trgl.data import ImageData
from trgl.models import names
from trgl.zoo import subject
from trgl_kernels.blocks import Regularized

TORCHVISION = [n for n in names.NETWORKS if n not in (*names.PAPERS, "vit_tiny", "vit_small")]


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", TORCHVISION)
def test_they_have_the_parameters_that_torchvision_counts(name):
    weights = next(iter(torchvision.models.get_model_weights(name)))
    size = 256 if "swin_v2" in name else 224
    if name == "vit_h_14":
        size = 518  # published for this size alone
    assert count(on_meta(name, (3, size, size))) == weights.meta["num_params"]


def test_small_vision_transformers_are_those_of_deit():
    # width d: patches 3·16²·d + d, class token and positions 198·d, blocks 12·(12·d² + 13·d),
    # the last norm 2·d, the classifier 1000·d + 1000
    for name, d in (("vit_tiny", 192), ("vit_small", 384)):
        expected = 769 * d + 198 * d + 12 * (12 * d**2 + 13 * d) + 2 * d + 1000 * d + 1000
        assert count(on_meta(name, (3, 224, 224), patch=16)) == expected
    assert on_meta("vit_tiny", (3, 32, 32), 10).conv_proj.kernel_size == (4, 4)
    assert on_meta("vit_tiny", (1, 32, 32), 10).conv_proj.in_channels == 1


STEMS = [
    # network, stem, its first convolution: kernel, stride, channels; side of the features
    ("resnet50", "cifar", 3, 1, 4),
    ("resnet50", "tiny-imagenet", 7, 2, 2),
    ("resnet50", "imagenet", 7, 2, 1),
    ("resnext50_32x4d", "cifar", 3, 1, 4),
    ("wide_resnet50_2", "tiny-imagenet", 7, 2, 2),
    ("densenet121", "cifar", 3, 1, 4),
    ("densenet121", "tiny-imagenet", 7, 2, 2),
    ("mobilenet_v2", "cifar", 3, 1, 2),
    ("mobilenet_v2", "tiny-imagenet", 3, 2, 1),
    ("efficientnet_b0", "cifar", 3, 1, 2),
    ("vgg19_bn", "cifar", 3, 1, 1),
]


@pytest.mark.parametrize(("name", "stem", "kernel", "stride", "side"), STEMS)
def test_stems(name, stem, kernel, stride, side):
    channels = 1
    model = on_meta(name, (channels, 32, 32), 10, stem=stem)
    own = on_meta(name, (3, 32, 32), 10)
    first, before = (next(m for m in net.modules() if isinstance(m, nn.Conv2d)) for net in
                     (model, own))  # fmt: skip
    assert (first.in_channels, first.kernel_size) == (channels, (kernel, kernel))
    assert first.stride == (stride, stride)
    assert count(model) - count(own) == first.weight.numel() - before.weight.numel()
    net = trgl.split(model, 2, (channels, 32, 32), 10, "conv")
    assert net[-1].head[0].in_channels == first_features(model, channels, net).shape[1]
    assert first_features(model, channels, net).shape[-1] == side


def first_features(model, channels, net):
    x = torch.empty(2, channels, 32, 32, device="meta")
    net.eval()
    for module in net:
        x = module.body(x)
    return x


@pytest.mark.parametrize(
    ("size", "patch", "windows"),
    [
        (32, 0, [4, 4, 2, 1]),
        (64, 0, [4, 4, 4, 2]),
        (96, 0, [6, 6, 6, 3]),
        (224, 0, [7, 7, 7, 7]),
        (32, 2, [4, 4, 4, 2]),
    ],
)
@pytest.mark.parametrize("name", ["swin_t", "swin_v2_t"])
def test_swins_have_windows_that_fit(name, size, patch, windows):
    torch.manual_seed(0)
    model = models.build(name, (3, size, size), 10, patch=patch, drop_path=0.1).eval()
    if name == "swin_v2_t":
        if size == 224:  # up to 8
            windows = [8, 8, 8, 7]
        elif size == 96:
            windows = [8, 8, 6, 3]
        elif patch == 2 or size == 64:
            windows = [8, 8, 4, 2]
        else:
            windows = [8, 4, 2, 2]
    stages = [model.features[k] for k in (1, 3, 5, 7)]
    assert [len(stage) for stage in stages] == [2, 2, 6, 2]
    for stage, window in zip(stages, windows, strict=True):
        assert {tuple(block.attn.window_size) for block in stage} == {(window, window)}
    blocks = [block for stage in stages for block in stage]
    assert blocks[0].stochastic_depth.p == 0
    assert blocks[-1].stochastic_depth.p == pytest.approx(0.1)
    assert blocks[-1].attn.num_heads == 24
    if size <= 64:
        with torch.no_grad():
            assert model(torch.randn(2, 3, size, size)).isfinite().all()


def test_a_window_smaller_than_asked_for_attends_to_the_whole_map_and_to_nothing_else():
    """With one window over the map, padding and shifts change nothing."""
    torch.manual_seed(0)
    attention = models.build("swin_t", (3, 32, 32), 10).features[5][1].attn
    assert attention.window_size == [2, 2]
    assert attention.shift_size == [0, 0]
    x = torch.randn(2, 2, 2, 384)
    q, k, v = attention.qkv(x).reshape(2, 4, 3, 12, 32).permute(2, 0, 3, 1, 4)
    table = attention.relative_position_bias_table
    index = attention.relative_position_index
    bias = table[index].reshape(4, 4, 12).permute(2, 0, 1)
    weights = (q @ k.transpose(-1, -2) / math.sqrt(32) + bias).softmax(-1)
    expected = attention.proj((weights @ v).transpose(1, 2).reshape(2, 2, 2, 384))
    torch.testing.assert_close(attention(x), expected)


def test_wide_networks_have_the_published_parameters():
    """45 million in 2-7, heads and that of the encoder included.

    Of 4-4 about 51 million are said, which lies between its bodies and all with five heads.
    """
    settings = {"encoder": "trained", "filters": 256, "encoder_kernel": 3, "encoder_stride": 2}
    small = recipe_of("wide", 2, blocks=7, **settings)
    net = split_on_meta(small, (3, 32, 32), 10)
    assert count(net) == pytest.approx(45e6, rel=0.01)
    large = recipe_of("wide", 4, blocks=4, **{**settings, "encoder_stride": 4})
    net = split_on_meta(large, (3, 64, 64), 200)
    # one block of C filters: two convolutions 9·C², two BNs 4·C; the first of a stage has one BN
    blocks = 8 * (18 * 256**2 + 4 * 256) - 2 * 256 + 8 * (18 * 512**2 + 4 * 512) - 2 * 512
    bodies = sum(count(module.body) for module in net)
    assert bodies == blocks + 256 * 512
    assert bodies < 51e6 < count(net)
    # three heads of C = 256 and two of 512: convolution 9·C², BN 2·C, linear 200·(C + 1); encoder
    heads = 3 * (9 * 256**2 + 202 * 256 + 200)
    heads += 2 * (9 * 512**2 + 202 * 512 + 200)
    assert count(net) == bodies + heads + 27 * 256 + 512


def test_a_wide_network_by_its_name():
    chosen = subject("wide-10-1", (3, 64, 64), 200)
    assert (chosen.modules, chosen.options) == ((10,), {"head": "conv", "encoder": "stem"})
    with torch.device("meta"):
        model = chosen.build()
        net = trgl.split(model, 10, chosen.shape, 200, **chosen.options)
    assert [module.energy_terms for module in net] == [1] * 10
    assert net.encoder.head[0].in_channels == 256
    assert [m.kernel_size for m in model.encoder if isinstance(m, nn.Conv2d)] == [(3, 3), (5, 5)]
    assert first_shape(model) == (256, 16, 16)
    with pytest.raises(ValueError, match="see wide-2-1"):
        subject("wide-1-1")
    with pytest.raises(ValueError, match=r"Did you mean wide-10-1\?"):
        subject("wide10-1")


def first_shape(model):
    return tuple(model.encoder(torch.empty(1, 3, 64, 64, device="meta")).shape[1:])


IMAGES = ImageData(
    "noise", torch.zeros(4, 3, 16, 16, dtype=torch.uint8), torch.arange(4) % 2,
    torch.zeros(4, 3, 16, 16, dtype=torch.uint8), torch.arange(4) % 2, 2,
)  # fmt: skip


@pytest.mark.parametrize("again", ["none", "residue", "activation"])
def test_the_blocks_of_a_recipe_recompute_what_it_says(again):
    net = build_network(recipe_of("resnet18", 2, recompute=again), IMAGES, 3)
    blocks = [block for block in net.modules() if isinstance(block, Regularized)]
    assert [block.recompute for block in blocks] == [again] * 8


@pytest.mark.parametrize("init", ["own", "orthogonal", "truncated-normal"])
def test_a_recipe_initializes(init):
    recipe = recipe_of("vit_tiny", 2, init=init, head="pool-linear", init_gain=0.1, init_std=0.3)
    net = build_network(recipe, IMAGES, 3)
    assert not differing(state(net), state(build_network(recipe, IMAGES, 3)))
    attention = net[0].body.units[-1].self_attention
    queries = attention.in_proj_weight[:192]
    linear = net[1].head.linear.weight
    if init == "orthogonal":
        for weight in (queries, attention.out_proj.weight, linear):
            gram = weight @ weight.T
            torch.testing.assert_close(gram, 0.01 * torch.eye(len(gram)), atol=1e-6, rtol=0)
    elif init == "truncated-normal":
        assert queries.abs().max() <= 0.6
        assert queries.std().item() == pytest.approx(
            0.3 * 0.8796, rel=0.02
        )  # of a normal cut at 2 std
        assert torch.equal(attention.in_proj_bias, torch.zeros(576))
    else:
        bound = math.sqrt(6 / (192 + 3 * 192))  # Xavier, over the three at once
        assert queries.abs().max() <= bound
        assert queries.abs().max() > 0.99 * bound


@pytest.mark.parametrize(
    ("name", "shape", "options", "message"),
    [
        ("vit_b_16", (3, 40, 40), {}, "Set patch to a divisor"),
        ("vit_tiny", (3, 32, 64), {}, "needs square images"),
        ("swin_t", (3, 30, 30), {}, "images of 30x30 and patches of 4"),
        ("resnet5", (3, 32, 32), {}, r"Did you mean resnet50\?"),
        ("wide", (3, 32, 32), {}, "trgl.models.wide_resnet"),
    ],
)
def test_networks_that_cannot_be_built(name, shape, options, message):
    with pytest.raises(ValueError, match=message):
        models.build(name, shape, 10, **options)
