"""batch_norm_relu: what autograd asks for, is given, keeps and is refused."""

import pytest
import torch
from batch_norm_relu_case import OPTIONS, backward, draw
from oracle import (
    DEVICE,
    FORWARD_MODE_SCRIPTS,
    LAYOUTS,
    gradients,
    saved_bytes,
)
from torch import Tensor, nn

from trgl_kernels import batch_norm_relu, reference


@pytest.mark.parametrize("wanted", ["z", "weight", "bias"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_only_what_is_wanted_is_computed(wanted, layout) -> None:
    z, given, cotangents = draw((3, 4, 5, 5), OPTIONS["training"])
    tensors = {
        "z": z.contiguous(memory_format=LAYOUTS[layout]),
        "weight": given.pop("weight"),
        "bias": given.pop("bias"),
    }

    def gradient(function) -> Tensor:
        inputs = {k: v.detach().requires_grad_(k == wanted) for k, v in tensors.items()}
        y = function(**inputs, **given)
        y = y if isinstance(y, Tensor) else y[0]
        return gradients([y], cotangents, [inputs[wanted]])[0]

    torch.testing.assert_close(gradient(batch_norm_relu), gradient(reference.batch_norm_relu))
    _, mean, rstd = reference.batch_norm_relu(z, tensors["weight"], tensors["bias"], **given)
    mask = [wanted == name for name in tensors]
    found = backward(cotangents[0], z, tensors["weight"], tensors["bias"], mean, rstd, True, mask)
    sizes = [t.numel() if name == wanted else 0 for name, t in tensors.items()]
    assert [t.numel() for t in found] == sizes


def test_saves_two_vectors_beyond_inputs_and_no_output() -> None:
    z = torch.randn(4, 8, 6, 6, requires_grad=True)
    weight, bias = (torch.rand(8, requires_grad=True) for _ in range(2))

    def function(z, weight, bias):
        batch_norm_relu(z, weight, bias, None, None, training=True)
        return ()

    assert saved_bytes(function, z, weight, bias) == 2 * 8 * 4  # mean and rstd, float32


def test_the_output_may_be_changed_in_place() -> None:
    z = torch.randn(4, 3, 5, 5, requires_grad=True)
    y = batch_norm_relu(z, None, None, None, None, training=True)
    (expected,) = torch.autograd.grad(y.sum(), z, retain_graph=True)
    y.mul_(2.0)
    (found,) = torch.autograd.grad(y.sum(), z)
    torch.testing.assert_close(found, 2 * expected)


def test_trains_as_a_module_with_its_relu_does() -> None:
    ours, theirs = nn.BatchNorm2d(6), nn.BatchNorm2d(6)
    for step in range(4):
        z = torch.randn(5, 6, 7, 3, generator=torch.Generator().manual_seed(step))
        outputs = (
            batch_norm_relu(
                z, ours.weight, ours.bias, ours.running_mean, ours.running_var, training=True
            ),
            torch.relu(theirs(z)),
        )
        for norm, y in zip((ours, theirs), outputs, strict=True):
            grads = torch.autograd.grad(y.square().mean(), [norm.weight, norm.bias])
            with torch.no_grad():
                for parameter, grad in zip((norm.weight, norm.bias), grads, strict=True):
                    parameter -= 0.5 * grad
    del ours.num_batches_tracked, theirs.num_batches_tracked
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


def test_double_backward_is_refused() -> None:
    z = torch.randn(4, 3, requires_grad=True)
    y = batch_norm_relu(z, None, None, None, None, training=True)
    with pytest.raises(RuntimeError, match="no derivative of its own"):
        torch.autograd.grad(y.sum(), z, create_graph=True)


@FORWARD_MODE_SCRIPTS
def test_forward_mode_is_refused() -> None:
    z = torch.randn(4, 3)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(z, torch.ones_like(z))
        with pytest.raises(RuntimeError, match=r"forward|jvp"):
            batch_norm_relu(dual, None, None, None, None, training=True)


def test_autocast_leaves_the_types_alone() -> None:
    z = torch.randn(4, 3, 5, 5).bfloat16()
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        inside = batch_norm_relu(z, torch.ones(3), torch.zeros(3), None, None, training=True)
    outside = batch_norm_relu(z, torch.ones(3), torch.zeros(3), None, None, training=True)
    assert torch.equal(inside, outside)
