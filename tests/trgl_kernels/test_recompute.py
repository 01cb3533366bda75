"""BN + ReLU + convolution as one function: the bits of the layers one by one, with less kept."""

import copy

import pytest
import torch
from oracle import DEVICE, LAYOUTS, READS_GRAD, gradients, leaf, saved_bytes
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from trgl_kernels import RegularizedBasicBlock, batch_norm_relu
from trgl_kernels.blocks import Regularized
from trgl_kernels.recompute import rebuilds

CONVOLUTIONS = {
    "3x3": {"padding": 1},
    "1x1": {"kernel_size": 1},
    "stride-bias": {"stride": 2, "padding": (1, 0), "bias": True},
    "dilation": {"dilation": (2, 1), "padding": 2},
    "groups": {"groups": 4, "padding": 1},
    "same": {"padding": "same", "dilation": 2},
    "valid": {"padding": "valid"},
}
NORMS = {
    "training": {},
    "momentum-none": {"momentum": None},
    "untracked": {"track_running_stats": False},
    "no-affine": {"affine": False},
}


def layers(conv: dict, norm: dict) -> tuple[nn.Module, nn.Module]:
    bn, conv = nn.BatchNorm2d(8, **norm), nn.Conv2d(8, 12, **{"kernel_size": 3, **conv})
    for parameter in (*bn.parameters(), *conv.parameters()):
        nn.init.normal_(parameter, std=0.5)
    return bn, conv


def run(mode: str, bn: nn.Module, conv: nn.Module, z: Tensor, relu: nn.Module | None = None):
    """Output, gradients and buffers of a block's inner layers under a mode."""
    bn, conv = copy.deepcopy(bn), copy.deepcopy(conv)
    z = z.detach().requires_grad_()
    block = Regularized().with_recompute(mode)
    y = block.convolve(bn, relu or nn.ReLU(), conv, z)
    found = gradients(
        [y], [torch.cos(y.detach().float()).to(y.dtype)], [z, *bn.parameters(), *conv.parameters()]
    )
    return [y.detach(), *found, *bn.buffers()]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("conv", CONVOLUTIONS)
def test_the_same_bits_as_with_the_activation_kept(conv, norm, layout) -> None:
    bn, conv = layers(CONVOLUTIONS[conv], NORMS[norm])
    z = leaf(torch.randn(4, 8, 7, 6), torch.float32, LAYOUTS[layout])
    for _ in range(2):
        for training in (True, False):
            bn.train(training)
            kept, rebuilt = (run(mode, bn, conv, z) for mode in ("none", "activation"))
            assert all(map(torch.equal, kept, rebuilt))
            bn(z)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_types(dtype) -> None:
    bn, conv = layers({}, {})
    bn, conv = (bn.double() if dtype == torch.float64 else bn), conv.to(dtype)
    z = torch.randn(4, 8, 7, 6, dtype=dtype)
    kept, rebuilt = (run(mode, bn, conv, z) for mode in ("none", "activation"))
    assert kept[0].dtype == dtype
    assert all(map(torch.equal, kept, rebuilt))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast(dtype) -> None:
    bn, conv = layers({"bias": True}, {})
    z = torch.randn(4, 8, 7, 6, dtype=dtype)
    with torch.autocast(DEVICE, torch.bfloat16):
        kept, rebuilt = (run(mode, bn, conv, z) for mode in ("none", "activation"))
    assert rebuilt[0].dtype == torch.bfloat16
    assert all(g.dtype == torch.float32 for g in rebuilt[2:6])
    assert all(map(torch.equal, kept, rebuilt))


def test_follows_the_modules() -> None:
    bn, conv = (layer.double() for layer in layers({"padding": 1}, {}))
    z = torch.randn(4, 8, 7, 6, dtype=torch.float64)
    modules = run("none", bn, conv, z, nn.ReLU6())  # not fused
    bn.weight.data.abs_().clamp_(max=0.5)  # and no value above 6
    modules = run("none", bn, conv, z, nn.ReLU6())
    for a, b in zip(run("activation", bn, conv, z), modules, strict=True):
        torch.testing.assert_close(a, b)


def test_gradcheck() -> None:
    bn, conv = (layer.double() for layer in layers({"stride": 2, "bias": True}, {}))
    block = Regularized().with_recompute("activation")

    def function(z: Tensor, *parameters: Tensor) -> Tensor:
        return block.convolve(bn, nn.ReLU(), conv, z)

    z = torch.randn(3, 8, 5, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        function, (z, *bn.parameters(), *conv.parameters()), fast_mode=True
    )


@pytest.mark.parametrize("frozen", ["z", "bn", "conv", "conv.bias", "z bn", "all"])
def test_only_gradients_that_are_wanted(frozen) -> None:
    bn, conv = layers({"bias": True}, {})
    for name, module in (("bn", bn), ("conv", conv)):
        module.requires_grad_(name not in frozen.split() and frozen != "all")
    if frozen == "conv.bias":
        conv.bias.requires_grad_(False)
    found = []
    for mode in ("none", "activation"):
        z = torch.randn(4, 8, 6, 6, generator=torch.Generator().manual_seed(3))
        z.requires_grad_("z" not in frozen.split() and frozen != "all")
        y = Regularized().with_recompute(mode).convolve(bn, nn.ReLU(), conv, z)
        inputs = [t for t in (z, *bn.parameters(), *conv.parameters()) if t.requires_grad]
        assert y.requires_grad == bool(inputs)
        found.append(torch.autograd.grad(y.sin().sum(), inputs) if inputs else ())
    assert all(map(torch.equal, *found))


def test_saves_the_input_of_the_normalization_alone() -> None:
    bn, conv = layers({"padding": 1, "bias": True}, {})
    z = torch.randn(4, 8, 6, 6, requires_grad=True)
    known = (z, *bn.parameters(), *bn.buffers(), *conv.parameters())
    block = Regularized()

    def function(*_: Tensor) -> list[Tensor]:
        return [block.convolve(bn, nn.ReLU(), conv, z)]

    vectors = 2 * 8 * 4  # mean and rstd
    assert saved_bytes(function, *known) == vectors + z.nbytes
    block.with_recompute("activation")
    assert saved_bytes(function, *known) == vectors


def test_the_rebuilt_activation_does_not_outlive_backward_nor_statistics_move_twice() -> None:
    bn, conv = layers({}, {})
    z = torch.randn(4, 8, 6, 6, requires_grad=True)
    y = Regularized().with_recompute("activation").convolve(bn, nn.ReLU(), conv, z)
    statistics = [b.clone() for b in bn.buffers()]
    y.sum().backward()
    assert all(map(torch.equal, statistics, bn.buffers()))
    assert bn.num_batches_tracked == 1
    with pytest.raises(RuntimeError, match="second time"):
        y.sum().backward()


def test_no_double_backward() -> None:
    bn, conv = layers({}, {})
    z = torch.randn(4, 8, 6, 6, requires_grad=True)
    y = Regularized().with_recompute("activation").convolve(bn, nn.ReLU(), conv, z)
    message = "^trgl::batch_norm_relu_convolution: .* Use the layers one after the other, which"
    with pytest.raises(RuntimeError, match=message):
        torch.autograd.grad(y.square().sum(), z, create_graph=True)


def reflected(block: nn.Module) -> None:
    block.conv2.padding_mode = "reflect"


def uneven(block: nn.Module) -> None:
    block.conv2 = nn.Conv2d(8, 8, (2, 3), padding="same", bias=False)


def parametrized(block: nn.Module) -> None:
    parametrizations.weight_norm(block.conv2)


CHANGES = {"reflect": reflected, "uneven": uneven, "parametrized": parametrized}


@pytest.mark.filterwarnings("ignore:Using padding=.same. with even kernel:UserWarning")
@pytest.mark.parametrize("change", CHANGES)
def test_other_convolutions_are_called(change) -> None:
    block = RegularizedBasicBlock(8, 8).double()
    CHANGES[change](block)
    block.double()
    assert not rebuilds(block.conv2)
    x = torch.randn(4, 8, 6, 6, dtype=torch.float64)
    expected = copy.deepcopy(block)(x)
    assert torch.equal(block.with_recompute("activation")(x), expected)


@pytest.mark.parametrize("kind", ["forward", "pre", "backward"])
@pytest.mark.parametrize("place", ["bn1", "relu", "conv2"])
def test_hooks_are_honoured(place, kind) -> None:
    block = RegularizedBasicBlock(8, 8).with_recompute("activation")
    block.relu.inplace = False
    calls: list[str] = []
    register = {
        "forward": "register_forward_hook",
        "pre": "register_forward_pre_hook",
        "backward": "register_full_backward_hook",
    }[kind]
    getattr(getattr(block, place), register)(lambda *args: calls.append(place))
    block(torch.randn(2, 8, 5, 5, requires_grad=True)).sum().backward()
    assert calls == [place] * (2 if place == "relu" else 1)


@READS_GRAD
@pytest.mark.parametrize("training", [True, False])
def test_compiles(training) -> None:
    bn, conv = layers({"padding": 1}, {})
    bn.train(training)
    z = torch.randn(4, 8, 6, 6)
    eager = run("activation", bn, conv, z)
    block = Regularized().with_recompute("activation")
    leaf = z.clone().requires_grad_()
    function = torch.compile(block.convolve, fullgraph=True)
    y = function(bn, nn.ReLU(), conv, leaf)
    found = gradients([y], [torch.cos(y.detach())], [leaf, *bn.parameters(), *conv.parameters()])
    for a, b in zip([y.detach(), *found, *bn.buffers()], eager, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_an_empty_batch() -> None:
    bn, conv = layers({"padding": 1}, {})
    z = torch.zeros(0, 8, 5, 5, requires_grad=True)
    y = Regularized().with_recompute("activation").convolve(bn.eval(), nn.ReLU(), conv, z)
    assert y.shape == (0, 12, 5, 5)
    y.sum().backward()
    assert z.grad.shape == z.shape
    assert torch.equal(conv.weight.grad, torch.zeros_like(conv.weight))


def test_the_inner_layers_are_the_operator() -> None:
    bn, _ = layers({}, {})
    twin = copy.deepcopy(bn)
    z = torch.randn(4, 8, 6, 6)
    y = Regularized().activate(bn, nn.ReLU(), z)
    expected = batch_norm_relu(
        z, twin.weight, twin.bias, twin.running_mean, twin.running_var, training=True
    )
    assert torch.equal(y, expected)
    assert torch.equal(bn.running_var, twin.running_var)
