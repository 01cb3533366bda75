"""What the operators' autograd does, as values that another process can compare: gradients of every
input, bytes kept for backward, and the words with which a second derivative is refused."""

from collections.abc import Callable, Iterator

import torch
from oracle import saved_bytes
from torch import Tensor

import trgl_kernels
from trgl_kernels import collect_energy

N, C, SIDE = 3, 8, 5
MAP = (N, C, SIDE, SIDE)
TOKENS = (N, 7, C)


class Inputs:
    """Tensors drawn by name, in the order of asking; those that want a gradient are remembered."""

    def __init__(self, wanted: str) -> None:
        self.generator = torch.Generator().manual_seed(0)
        self.wanted = wanted.split()
        self.leaves: dict[str, Tensor] = {}

    def draw(self, name: str, *shape: int) -> Tensor:
        tensor = torch.randn(shape, generator=self.generator)
        if name in self.wanted:
            self.leaves[name] = tensor.requires_grad_()
        return tensor


def add(i: Inputs, **options: object) -> tuple[Tensor, ...]:
    x, r, scale = i.draw("x", *MAP), i.draw("r", *MAP), i.draw("scale", C)
    keep = torch.tensor([0.0, 1.25, 1.25])
    return trgl_kernels.residual_energy(x, r, scale=scale, keep=keep, **options)


def recovered(i: Inputs) -> tuple[Tensor, ...]:
    x, r = i.draw("x", *MAP), i.draw("r", *MAP)
    op = torch.ops.trgl.residual_energy.default
    return op(x, r, "none", None, None, 2.0, True, True)


def normalize_and_add(i: Inputs, training: bool = True, **options: object) -> tuple[Tensor, ...]:
    z, x = i.draw("z", *MAP), i.draw("x", *MAP)
    weight, bias = i.draw("weight", C), i.draw("bias", C)
    return trgl_kernels.batch_norm_residual_energy(
        z, x, weight, bias, torch.zeros(C), torch.ones(C), training=training, **options
    )


def normalize(i: Inputs) -> tuple[Tensor, ...]:
    z, weight, bias = i.draw("z", *MAP), i.draw("weight", C), i.draw("bias", C)
    mean, var = torch.zeros(C), torch.ones(C)
    return (trgl_kernels.batch_norm_relu(z, weight, bias, mean, var, training=True),)


def displacement(i: Inputs) -> tuple[Tensor, ...]:
    return (trgl_kernels.displacement_energy(i.draw("x", *MAP), i.draw("y", *MAP)),)


def add_and_normalize(i: Inputs, **options: object) -> tuple[Tensor, ...]:
    x, r = i.draw("x", *TOKENS), i.draw("r", *TOKENS)
    weight, bias, scale = i.draw("weight", C), i.draw("bias", C), i.draw("scale", C)
    return trgl_kernels.residual_energy_layer_norm(x, r, weight, bias, scale=scale, **options)


def block(i: Inputs, mode: str) -> tuple[Tensor, ...]:
    torch.manual_seed(0)
    made = trgl_kernels.RegularizedPreActBlock(C, C).with_recompute(mode)
    i.leaves |= dict(made.named_parameters())
    with collect_energy() as energies:
        y = made(i.draw("x", *MAP))
    return y, energies.total()


# what is called, and which of its inputs want a gradient
CASES: dict[str, tuple[Callable[[Inputs], tuple[Tensor, ...]], str]] = {
    "residual_energy": (lambda i: add(i, activation="relu", p=1.5), "x r scale"),
    "residual_energy of r alone": (lambda i: add(i), "r"),
    "residual_energy of scale alone": (lambda i: add(i), "scale"),
    "residual_energy, r recovered": (recovered, "x r"),
    "batch_norm_residual_energy": (normalize_and_add, "z x weight bias"),
    "batch_norm_residual_energy behind a ReLU": (
        lambda i: normalize_and_add(i, activation="relu"),
        "z x weight bias",
    ),
    "batch_norm_residual_energy, statistics given": (
        lambda i: normalize_and_add(i, training=False),
        "z weight",
    ),
    "batch_norm_residual_energy of x alone": (normalize_and_add, "x"),
    "batch_norm_relu": (normalize, "z weight bias"),
    "batch_norm_relu of weight alone": (normalize, "weight"),
    "displacement_energy": (displacement, "x y"),
    "displacement_energy of y alone": (displacement, "y"),
    "residual_energy_layer_norm": (add_and_normalize, "x r weight bias scale"),
    "residual_energy_layer_norm of r alone": (add_and_normalize, "r"),
    "a block": (lambda i: block(i, "none"), "x"),
    "a block, residue recovered": (lambda i: block(i, "residue"), "x"),
    "a block, activation rebuilt": (lambda i: block(i, "activation"), "x"),
}


def backward(outputs: tuple[Tensor, ...], create_graph: bool = False) -> None:
    generator = torch.Generator().manual_seed(1)
    wanted = [t for t in outputs if t.requires_grad]
    cotangents = [torch.randn(t.shape, generator=generator) for t in wanted]
    torch.autograd.backward(wanted, cotangents, create_graph=create_graph)


def outcomes() -> Iterator[tuple[str, dict[str, object]]]:
    """By case: "kept", "gradients" by input, and "refused"."""
    for name, (call, wanted) in CASES.items():
        inputs = Inputs(wanted)
        backward(call(inputs))
        gradients = {key: leaf.grad for key, leaf in inputs.leaves.items()}
        again = Inputs(wanted)
        try:
            backward(call(again), create_graph=True)
            refused = ""
        except RuntimeError as error:
            refused = str(error).splitlines()[0]
        kept = saved_bytes(lambda call=call, wanted=wanted: call(Inputs(wanted)))
        yield name, {"kept": kept, "gradients": gradients, "refused": refused}
