"""Backward through what was released raises the error of the boundary, whatever the layer saved."""

import gc
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from boundaries import Layers, batch, momentum, needs_extension, train
from torch import nn
from torch.utils.checkpoint import checkpoint

import trgl_kernels
from trgl_kernels import collect_energy
from trgl_kernels.boundary import ModuleBoundary, live_bytes

pytestmark = [
    needs_extension,
    pytest.mark.filterwarnings("ignore::trgl_kernels.boundary.BoundaryWarning"),
]

IMAGES, ROWS, TOKENS = (4, 8, 12, 12), (64, 64), (4, 32, 64)


class First(nn.Module):
    """What a layer gives first: of a recurrent one the output without its state, of attention."""

    def __init__(self, layer, inputs=1):
        super().__init__()
        self.layer = layer
        self.inputs = inputs

    def forward(self, x):
        y = self.layer(*[x] * self.inputs)
        return y[0] if isinstance(y, tuple) else y


class Called(nn.Module):
    """A function as a layer."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def checkpointed():
    layers = nn.Sequential(nn.Linear(64, 64), nn.Tanh())
    return Called(lambda x: checkpoint(layers, x, use_reentrant=False))


LAYERS = {  # made anew for every test: what one test releases is no other's
    "linear": (lambda: nn.Linear(64, 64), ROWS),
    "bilinear": (lambda: First(nn.Bilinear(64, 64, 8), inputs=2), ROWS),
    "convolution": (lambda: nn.Conv2d(8, 8, 3, padding=1), IMAGES),
    "transposed convolution": (lambda: nn.ConvTranspose2d(8, 8, 3), IMAGES),
    "grouped convolution": (lambda: nn.Conv2d(8, 8, 3, groups=4), IMAGES),
    "convolution in 3d": (lambda: nn.Conv3d(4, 4, 3, padding=1), (2, 4, 6, 12, 12)),
    "batch norm": (lambda: nn.BatchNorm2d(8), IMAGES),
    "layer norm": (lambda: nn.LayerNorm(64), ROWS),
    "group norm": (lambda: nn.GroupNorm(2, 8), IMAGES),
    "instance norm": (lambda: nn.InstanceNorm2d(8), IMAGES),
    "ReLU": (lambda: nn.ReLU(), IMAGES),
    "GELU": (lambda: nn.GELU(), ROWS),
    "SiLU": (lambda: nn.SiLU(), ROWS),
    "tanh": (lambda: nn.Tanh(), ROWS),
    "sigmoid": (lambda: nn.Sigmoid(), ROWS),
    "softmax": (lambda: nn.Softmax(1), ROWS),
    "ELU": (lambda: nn.ELU(), ROWS),
    "PReLU": (lambda: nn.PReLU(), ROWS),
    "hard swish": (lambda: nn.Hardswish(), ROWS),
    "dropout": (lambda: nn.Dropout(), ROWS),
    "max pooling": (lambda: nn.MaxPool2d(2), IMAGES),
    "average pooling": (lambda: nn.AvgPool2d(2), IMAGES),
    "interpolation": (lambda: nn.Upsample(scale_factor=2, mode="bilinear"), IMAGES),
    "attention": (lambda: First(nn.MultiheadAttention(64, 4, batch_first=True), 3), TOKENS),
    "scaled dot product": (
        lambda: Called(lambda x: F.scaled_dot_product_attention(x, x, x)),
        (4, 2, 32, 64),
    ),
    "LSTM": (lambda: First(nn.LSTM(64, 16, batch_first=True)), TOKENS),
    "GRU": (lambda: First(nn.GRU(64, 16, batch_first=True)), TOKENS),
    "cross-entropy": (
        lambda: Called(lambda x: F.cross_entropy(x, torch.arange(64), reduction="none")),
        ROWS,
    ),
    "checkpoint": (checkpointed, ROWS),
    "our basic block": (lambda: trgl_kernels.RegularizedBasicBlock(8, 8), IMAGES),
    "our bottleneck": (lambda: trgl_kernels.RegularizedBottleneck(8, 2), IMAGES),
    "our pre-activation block": (
        lambda: trgl_kernels.RegularizedPreActBlock(8, 8).with_recompute("activation"),
        IMAGES,
    ),
    "our residual block": (
        lambda: trgl_kernels.RegularizedResidual(nn.Linear(64, 64), activation="relu"),
        ROWS,
    ),
    "our ViT block": (lambda: trgl_kernels.RegularizedViTBlock(4, 64, 64, 0.0, 0.0), TOKENS),
    "our Swin block": (
        lambda: trgl_kernels.RegularizedSwinBlock(8, 2, [4, 4], [2, 2]),
        (4, 12, 12, 8),
    ),
    "our inverted residual": (
        lambda: trgl_kernels.RegularizedInvertedResidual(8, 8, 1, 2),
        IMAGES,
    ),
}
# backward reads no values of maps, only shapes and, for the maximum, indices: here of at most 4 KiB
WITHOUT_VALUES = {
    "average pooling": lambda: nn.AvgPool2d(2),
    "adaptive maximum": lambda: nn.AdaptiveMaxPool2d(3),
    "interpolation": lambda: nn.Upsample(scale_factor=2, mode="bilinear"),
    "padding": lambda: nn.ZeroPad2d(1),
}


@pytest.mark.parametrize("name", LAYERS)
def test_backward_through_released_tensors(name):
    build, shape = LAYERS[name]
    layer = build()
    boundary = ModuleBoundary("module 3", [layer], find="always")
    losses = []
    x = torch.randn(shape, requires_grad=True)

    def forward() -> None:
        y = layer(x * 1.5 + 1)
        losses.append((y * y.detach().sigmoid()).sum())

    before = live_bytes()
    with boundary, collect_energy():
        forward()
    # statistics, masks and the states of recurrent layers stay, at most 4 KiB each; how many of
    # them is not known here: nodes that are written in C++ do not show what they saved
    assert live_bytes() - before < (65536 if name in ("LSTM", "GRU") else 12288)
    assert boundary.held
    assert losses[0].isfinite()
    with pytest.raises(RuntimeError, match="boundary 'module 3'"):
        losses[0].backward()
    gc.collect()


@pytest.mark.parametrize("build", WITHOUT_VALUES.values(), ids=WITHOUT_VALUES)
def test_backward_that_needs_no_values_goes_on(build):
    layer = build()
    x = torch.randn(IMAGES, requires_grad=True)
    boundary, outputs = ModuleBoundary("module 3", [layer], find="always"), []
    with boundary:
        outputs.append(layer(x * 1.5))
    outputs[0].backward(torch.ones_like(outputs[0], device="cpu"))
    assert x.grad.isfinite().all()


def test_released_layers_leave_later_steps_as_they_would_be():
    results = []
    for hold in (False, True):
        torch.manual_seed(0)
        module = Layers()
        optimizer, kept = momentum(module), []
        boundary = ModuleBoundary("module 3", [module], [optimizer])
        if hold:
            module.layers[0].register_forward_hook(lambda _m, _i, y, kept=kept: kept.append(y))
        for _ in range(8):
            with boundary:
                train(module, optimizer, batch())
        results.append([p.detach().clone() for p in module.parameters()])
    assert all(map(torch.equal, *results))


WORKER = """
import torch, trgl_kernels
t = torch.ones(5000)
trgl_kernels.release(t, reason="before a worker")
queue = torch.multiprocessing.get_context("spawn").SimpleQueue()
try:
    queue.put(t)
except RuntimeError as error:
    assert "before a worker" in str(error), error
    print("refused")
"""


def test_released_tensors_are_not_sent_to_another_process():
    run = subprocess.run([sys.executable, "-c", WORKER], capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, "refused\n"), run.stderr
