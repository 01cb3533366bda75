from functools import partial

import pytest
import torch
from torch import nn

from trgl import heads
from trgl.pooling import GlobalAveragePool


def test_the_conv_head_is_convolution_relu_pooling_bn_linear():
    head = heads.build("conv", (4, 6, 6), 3)
    kinds = [type(layer).__name__ for layer in head]
    assert kinds == ["Conv2d", "ReLU", "GlobalAveragePool", "BatchNorm2d", "Flatten", "Linear"]
    convolution = head[0]
    assert convolution.weight.shape == (4, 4, 3, 3)
    assert convolution.bias is None
    assert head(torch.randn(2, 4, 6, 6)).shape == (2, 3)


@pytest.mark.parametrize(("window", "cells"), [(1, 35), (2, 6), (3, 2), (5, 1)])
def test_the_conv_head_pools_over_windows(window, cells):
    head = heads.build(partial(heads.conv, window=window), (4, 7, 5), 3)
    assert head[-1].in_features == 4 * cells
    x = torch.randn(2, 4, 7, 5)
    pooled = nn.functional.avg_pool2d(head[0](x).relu(), window)
    head.eval()
    torch.testing.assert_close(head(x), head[-1](head[3](pooled).flatten(1)))


def test_linear_and_mlp_heads_flatten_anything():
    for shape in ((5,), (4, 3), (4, 2, 2)):
        x = torch.randn(2, *shape)
        linear = heads.build("linear", shape, 3)
        torch.testing.assert_close(linear(x), linear[0](x.flatten(1)))
        mlp = heads.build("mlp", shape, 3)
        kinds = [type(layer).__name__ for layer in mlp]
        assert kinds == ["FlatLinear", "BatchNorm1d", "ReLU", "Linear"]
        assert mlp[0].out_features == 30
        assert mlp(x).shape == (2, 3)
    assert heads.mlp((5,), 3, hidden=7)[0].out_features == 7


@pytest.mark.parametrize(
    ("shape", "builder", "norm_over"),
    [
        ((4, 3, 5), heads.pool_linear, 1),
        ((6, 4), heads.pool_linear, -1),
        ((3, 5, 4), partial(heads.pool_linear, channels_last=True), -1),
    ],
    ids=["maps", "tokens", "channels-last"],
)
def test_the_pool_linear_head_is_linear_of_the_mean_of_the_normalized_positions(
    shape, builder, norm_over
):
    head = heads.build(builder, shape, 3)
    x = torch.randn(2, *shape)
    positions = x.movedim(norm_over, -1).flatten(1, -2)  # [N, S, C]
    mean = positions.mean(-1, keepdim=True)
    deviation = (positions.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    expected = head.linear(((positions - mean) / deviation).mean(1))
    torch.testing.assert_close(head(x), expected)


@pytest.mark.parametrize(
    ("head", "shape", "message"),
    [
        ("convolution", (4, 6, 6), "'conv', 'linear', 'mlp', 'pool-linear'"),
        ("conv", (16, 4), "needs feature maps"),
        ("pool-linear", (16,), "channels and positions"),
        (partial(heads.conv, window=7), (4, 6, 8), "1 to 6 pixels"),
        (partial(heads.conv, window=0), (4, 6, 8), "window=0"),
        (partial(heads.mlp, hidden=0), (4,), "at least one unit"),
        (nn.Linear(4, 3), (4,), "Wrap a module"),
        (3, (4,), "got int"),
        (lambda shape, classes: "no", (4,), "must return an nn.Module"),
        (lambda shape: nn.Flatten(), (4,), r"takes \(shape, num_classes\).*: too many positional"),
        (nn.Flatten(), (4,), "Wrap a module"),
    ],
)
def test_heads_that_cannot_be_built_say_why(head, shape, message):
    with pytest.raises(ValueError, match=message):
        heads.build(head, shape, 3)


def test_heads_of_all_modules():
    shapes = [(4, 6, 6), (8, 3, 3)]
    several = heads.build_all("linear", shapes, 3)
    assert [head[-1].in_features for head in several] == [144, 72]
    mixed = heads.build_all(["conv", lambda shape, classes: nn.Flatten()], shapes, 3)
    assert isinstance(mixed[1], nn.Flatten)
    shared = heads.build_all("linear", [(4,)] * 3, 3, shared=True)
    assert len(shared) == 3
    assert shared[0] is shared[1] is shared[2]
    with pytest.raises(ValueError, match=r"module 2 gives \(8, 3, 3\)"):
        heads.build_all("linear", shapes, 3, shared=True)
    with pytest.raises(ValueError, match="one per module, 2, but got 1"):
        heads.build_all(["conv"], shapes, 3)
    with pytest.raises(ValueError, match="Give one head"):
        heads.build_all(["conv", "conv"], [(4, 6, 6)] * 2, 3, shared=True)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_average_over_all_positions_is_that_of_pytorch(dtype, layout):
    x = torch.randn(3, 5, 6, 7, dtype=dtype).contiguous(memory_format=layout)
    results = []
    for pool in (GlobalAveragePool(), nn.AdaptiveAvgPool2d(1)):
        features = x.clone().requires_grad_()
        y = pool(features)
        (gradient,) = torch.autograd.grad(y, features, torch.full_like(y, 0.3))
        results.append((y, gradient))
    exact = {} if dtype == torch.bfloat16 else {"rtol": 0, "atol": 0}
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, **exact)


def test_the_average_of_large_float16_features_does_not_overflow():
    x = torch.full((1, 2, 20, 20), 300.0, dtype=torch.float16)
    assert GlobalAveragePool()(x).flatten().tolist() == [300, 300]


def test_the_mlp_sr_head():
    head = heads.build("mlp-sr", (6, 32, 30), 3)
    kinds = [type(layer).__name__ for layer in head]
    convolution = ["Conv2d", "BatchNorm2d", "ReLU"]
    hidden = ["Linear", "BatchNorm1d", "ReLU"]
    pool = "AdaptiveAvgPool2d"
    assert kinds == [pool, *3 * convolution, pool, "Flatten", *2 * hidden, "Linear"]
    x = torch.randn(4, 6, 32, 30)
    assert head[0](x).shape == (4, 6, 8, 8)  # a quarter, rounded up
    assert head[1].kernel_size == (1, 1)
    assert [layer.out_features for layer in head if isinstance(layer, nn.Linear)] == [24, 24, 3]
    assert head(x).shape == (4, 3)
    # on a map of one colour pooling changes nothing: the rest is an MLP of five layers
    flat = head.eval()(torch.ones(2, 6, 8, 8))
    z = torch.ones(2, 6)
    for k in (1, 4, 7):
        z = torch.relu(head[k + 1](head[k](z[:, :, None, None]))).flatten(1)
    z = z.repeat_interleave(4, 1)
    torch.testing.assert_close(flat, head[12:](z))
    for side, cells in ((1, 1), (4, 1), (5, 4), (8, 4)):
        assert heads.build("mlp-sr", (2, side, side), 3)[-1].in_features == 2 * cells
    with pytest.raises(ValueError, match=r"'mlp-sr' needs feature maps"):
        heads.build("mlp-sr", (2, 8), 3)
