"""batch_norm_residual_energy: derivatives, what autograd keeps and is refused; hard numbers."""

import pytest
import torch
import torch.nn.functional as F
from batch_norm_residual_case import OPTIONS, batch_norm, draw, run
from oracle import (
    FORWARD_MODE_SCRIPTS,
    INTERPRETED,
    LAYOUTS,
    READS_GRAD,
    each_end,
    each_path,
    gradients,
    leaf,
    saved_bytes,
)
from torch import Tensor

from trgl_kernels import batch_norm_residual_energy, reference


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("options", OPTIONS)
def test_gradcheck(options, layout) -> None:
    z, x, options, _ = draw((3, 4, 3, 2), OPTIONS[options])
    z, x = (leaf(t, torch.float64, layout) for t in (z, x))
    names = [name for name in ("weight", "bias") if options[name] is not None]
    vectors = [options.pop(name).requires_grad_() for name in names]
    options.pop("running_mean" if options["running_mean"] is None else "", None)

    def function(z, x, *vectors):
        given = {"weight": None, "bias": None, "running_mean": None, **options}
        given |= dict(zip(names, vectors, strict=True))
        given |= {
            k: v.clone() for k, v in given.items() if k.startswith("running") and v is not None
        }
        return batch_norm_residual_energy(z, x, **given)

    assert torch.autograd.gradcheck(function, (z, x, *vectors))


@READS_GRAD
@each_end
@pytest.mark.parametrize("with_energy", [True, False])
@pytest.mark.parametrize("options", ["training", "evaluation", "no-running", "keep"])
def test_opcheck(options, with_energy, dtype, layout) -> None:
    z, x, options, _ = draw((3, 4, 5, 2), OPTIONS[options])
    single = {k: v.float() if isinstance(v, Tensor) else v for k, v in options.items()}
    args = (
        leaf(z, dtype, layout),
        leaf(x, dtype, layout),
        single["weight"].requires_grad_(),
        single["bias"].requires_grad_(),
        single["running_mean"],
        single["running_var"],
        single["training"],
        0.1,
        1e-5,
        "relu",
        single.get("keep"),
        2.0,
        with_energy,
    )
    torch.library.opcheck(torch.ops.trgl.batch_norm_residual_energy.default, args)


@each_path
def test_compiles_without_a_graph_break(dtype, layout) -> None:
    drawn = draw((4, 6, 5, 5), OPTIONS["keep"])
    compiled = torch.compile(batch_norm_residual_energy, fullgraph=True)
    ours = run(batch_norm_residual_energy, *drawn, dtype, layout)
    theirs = run(compiled, *drawn, dtype, layout)
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name])
        assert ours[name].stride() == theirs[name].stride()


@pytest.mark.parametrize("wanted", ["z", "x", "weight", "bias"])
@pytest.mark.parametrize("used", ["y", "energy"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_only_what_is_wanted_is_computed(wanted, used, layout) -> None:
    z, x, options, cotangents = draw((3, 4, 5, 5), OPTIONS["keep"])
    z, x = (t.contiguous(memory_format=LAYOUTS[layout]) for t in (z, x))
    tensors = {"z": z, "x": x, "weight": options.pop("weight"), "bias": options.pop("bias")}

    def gradient(function) -> Tensor:
        inputs = {k: v.detach().requires_grad_(k == wanted) for k, v in tensors.items()}
        y, energy, *_ = function(**inputs, **options)
        output, cotangent = (y, cotangents[0]) if used == "y" else (energy, cotangents[1])
        if not output.requires_grad:
            return torch.zeros_like(inputs[wanted])
        return gradients([output], [cotangent], [inputs[wanted]])[0]

    found, known = (
        gradient(batch_norm_residual_energy),
        gradient(reference.batch_norm_residual_energy),
    )
    torch.testing.assert_close(found, known)


def test_saves_two_vectors_beyond_inputs_and_outputs() -> None:
    z, x = (torch.randn(4, 8, 6, 6, requires_grad=True) for _ in range(2))
    weight, bias = (torch.rand(8, requires_grad=True) for _ in range(2))

    def function(z, x, weight, bias):
        return batch_norm_residual_energy(z, x, weight, bias, None, None, training=True)

    assert saved_bytes(function, z, x, weight, bias) == 2 * 8 * 4  # mean and rstd, float32


def test_double_backward_is_refused() -> None:
    z = torch.randn(4, 3, requires_grad=True)
    _, energy = batch_norm_residual_energy(z, z, None, None, None, None, training=True)
    with pytest.raises(RuntimeError, match="no derivative of its own"):
        torch.autograd.grad(energy.sum(), z, create_graph=True)


@READS_GRAD
@pytest.mark.parametrize(
    "mask", [[True] * 4, [True, False, False, True], [False, True, True, False]]
)
@pytest.mark.parametrize("training", [True, False])
def test_opcheck_backward(mask, training) -> None:
    z, x, options, (grad_y, grad_energy) = draw((3, 4, 5, 2), OPTIONS["keep"])
    options["training"] = training
    y, _, mean, rstd = reference.batch_norm_residual_energy(z, x, **options)
    tensors = (grad_y, grad_energy, z, y, options["weight"], options["bias"], mean, rstd)
    args = (*(t.float() for t in tensors), training, "relu", options["keep"].float(), 2.0)
    torch.library.opcheck(
        torch.ops.trgl.batch_norm_residual_energy_backward.default, (*args, torch.float32, mask)
    )


def test_the_energy_alone_gives_no_gradient_to_the_shortcut() -> None:
    z, x = (torch.randn(4, 3, 4, 4, requires_grad=True) for _ in range(2))
    _, energy = batch_norm_residual_energy(z, x, None, None, None, None, training=True)
    found = torch.autograd.grad(energy.sum(), [z, x], allow_unused=True)
    assert found[0] is not None
    assert found[1] is None


@FORWARD_MODE_SCRIPTS
def test_forward_mode_is_refused() -> None:
    z = torch.randn(4, 3)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(z, torch.ones_like(z))
        with pytest.raises(RuntimeError, match=r"forward|jvp"):
            batch_norm_residual_energy(dual, z, None, None, None, None, training=True)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("activation", ["relu", "none"])
def test_infinity_leaves_the_gradients_of_evaluation_as_in_torch(activation, layout) -> None:
    z, x = (torch.randn(3, 8, 5, 5).contiguous(memory_format=LAYOUTS[layout]) for _ in range(2))
    z[1, 2, 3, 3], z[0, 1, 0, 0] = float("inf"), float("-inf")
    weight, mean, var = torch.rand(8), torch.zeros(8), torch.ones(8)
    found = []
    for function in (batch_norm_residual_energy, batch_norm):
        leaves = [t.clone().requires_grad_() for t in (z, x)]
        y, _ = function(*leaves, weight, None, mean, var, training=False, activation=activation)
        found.append(torch.autograd.grad(y.sum(), leaves))
    assert not found[1][0].isnan().any()
    torch.testing.assert_close(*found)


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # the interpreter's
@pytest.mark.parametrize("layout", LAYOUTS)
def test_infinity_reaches_the_running_mean(layout) -> None:
    z = torch.randn(3, 5, 5, 5).contiguous(memory_format=LAYOUTS[layout])
    z[1, 2, 3, 3], z[0, 1, 0, 0] = float("inf"), float("-inf")
    z[0, 4, 1, 1], z[2, 4, 0, 2], z[0, 3, 4, 4] = float("inf"), float("-inf"), float("nan")
    ours, theirs = ([torch.zeros(5), torch.ones(5)] for _ in range(2))
    batch_norm_residual_energy(z, z, None, None, *ours, training=True)
    # as the CPU sums: Welford's recurrence, which torch has on CUDA, may make NaN of infinity
    theirs = [t.cpu() for t in theirs]
    F.batch_norm(z.cpu(), *theirs, None, None, True, 0.1)
    torch.testing.assert_close([t.cpu() for t in ours], theirs, equal_nan=True)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_long_sums_of_one_sign_keep_their_digits(layout) -> None:
    side = 16 if INTERPRETED else 700
    z = torch.full((1, 2, side, side), 0.3).contiguous(memory_format=LAYOUTS[layout])
    mean, var = torch.zeros(2), torch.ones(2)
    _, energy = batch_norm_residual_energy(
        z, torch.zeros_like(z), None, None, mean, var, training=False, eps=0.0
    )
    exact = z.double().square().sum((1, 2, 3))
    assert abs(energy.double() / exact - 1).max() < 3e-7
