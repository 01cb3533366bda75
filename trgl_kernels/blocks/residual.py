"""What every regularized block does inside and at its end, and the block around any branch."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..checks import ACTIVATIONS, refusal
from ..collect import current
from ..displacement_energy import displacement_energy
from ..ordinary import (
    autocast_dtype,
    batch_norm_arguments,
    drawn,
    drops_samples,
    fusible,
    normalizes_rows,
    rectifies,
)
from ..recompute import batch_norm_relu_convolution, rebuilds

ENERGIES = ("residue", "displacement")
RECOMPUTE = ("none", "residue", "activation")


class Regularized(nn.Module):
    """A residual block that adds its energy to the innermost collector.

    `energy` says which: "residue" is ‖r‖², r as it enters the addition; "displacement" is
    ‖y − shortcut(x)‖², measured after the activation. `recompute` says what autograd keeps, see
    `with_recompute`.
    """

    energy: str = "residue"
    recompute: str = "none"

    def with_energy(self, energy: str) -> "Regularized":
        """Chooses the energy and returns the block."""
        if energy not in ENERGIES:
            raise refusal(
                f"energy of a block must be one of {', '.join(ENERGIES)}",
                repr(energy),
                "energy='module' belongs to trgl.split, which knows where modules end.",
            )
        self.energy = energy
        return self

    def with_recompute(self, recompute: str) -> "Regularized":
        """Chooses what backward computes again instead of keeping it, and returns the block.

        "none" keeps what autograd keeps. "residue" recovers r as y − x where no BN produced it: no
        activation after the addition, an identity shortcut, p = 2, float32 or float64, no factor
        per channel that takes a gradient; elsewhere r is kept. Its error is 2·ulp(max(|x|, |y|)),
        and what follows the block must not overwrite y. "activation" does that, and keeps no input
        of a convolution behind an ordinary BN and ReLU: it is built again from the BN's input, bit
        by bit the same. Under torch.compile the partitioner decides what is kept.
        """
        if recompute not in RECOMPUTE:
            raise refusal(
                f"recompute of a block must be one of {', '.join(RECOMPUTE)}",
                repr(recompute),
                "Leave it at 'none' to keep what autograd keeps.",
            )
        self.recompute = recompute
        return self

    def activate(
        self,
        bn: nn.Module,
        relu: nn.Module,
        z: Tensor,  # [N, C, *]
    ) -> Tensor:  # [N, C, *]
        """relu(bn(z)), in one pass where both are ordinary."""
        if not fusible(bn, relu):
            y: Tensor = relu(bn(z))
            return y
        y, _mean, _rstd = torch.ops.trgl.batch_norm_relu.default(z, *batch_norm_arguments(bn, z))
        return y

    def convolve(
        self,
        bn: nn.Module,
        relu: nn.Module,
        conv: nn.Module,
        z: Tensor,  # [N, C, H, W]
    ) -> Tensor:  # [N, C', H', W']
        """conv(relu(bn(z))); with recompute="activation" autograd keeps z alone."""
        rebuilt = self.recompute == "activation" and rebuilds(conv)
        if rebuilt and fusible(bn, relu):
            return batch_norm_relu_convolution(z, bn, conv)
        out: Tensor = conv(self.activate(bn, relu, z))
        return out

    def drop(
        self,
        module: nn.Module | None,
        r: Tensor,  # [N, C, *]
    ) -> tuple[Tensor, Tensor | None]:  # [N, C, *], [N]
        """(r, keep) such that keep·r is what `module` makes of r: DropPath as a factor."""
        if drops_samples(module):
            return r, drawn(module, r)
        assert module is not None
        return module(r), None

    def add(
        self,
        x: Tensor,  # [N, C, *]
        r: Tensor,  # [N, C, *]
        activation: str | nn.Module = "none",
        scale: Tensor | None = None,  # [C]
        keep: Tensor | None = None,  # [N]
        *,
        held: bool = True,
    ) -> Tensor:  # [N, C, *]
        """y = act(x + keep·scale·r); its energy goes to the collector, if there is one.

        `held` says that autograd keeps x and y anyway, for the branch and for what follows, so that
        r can be recovered from them.
        """
        name, after = _fused(activation)
        measured, p = self._measured()
        r = _as_scaled(x, r, scale)
        plain = name == "none" and scale is None
        if not measured and plain and x.shape == r.shape:
            # saves nothing, and a later in-place activation may overwrite it
            q = r if keep is None else r * keep.view(-1, *[1] * (r.dim() - 1))
            return self._report(x, x + q, None, after)
        recover = held and after is None and self.recompute != "none"
        y, energy = torch.ops.trgl.residual_energy.default(
            x, r, name, scale, keep, p, measured, recover
        )
        return self._report(x, y, energy, after)

    def normalize_and_add(
        self,
        bn: nn.Module,
        z: Tensor,  # [N, C, *]
        x: Tensor,  # [N, C, *]
        activation: str | nn.Module = "none",
        drop: nn.Module | None = None,
        *,
        held: bool = True,
    ) -> Tensor:  # [N, C, *]
        """y = act(x + drop(bn(z))), in one pass where `bn` and `drop` are ordinary."""
        if not (fusible(bn) and drops_samples(drop)):
            r, keep = self.drop(drop, bn(z))
            return self.add(x, r, activation, keep=keep, held=held)
        name, after = _fused(activation)
        measured, p = self._measured()
        keep = drawn(drop, z)
        y, energy, _mean, _rstd = torch.ops.trgl.batch_norm_residual_energy.default(
            z,
            x,
            *batch_norm_arguments(bn, z),
            name,
            keep,
            p,
            measured,
        )
        return self._report(x, y, energy, after)

    def add_and_normalize(
        self,
        x: Tensor,  # [N, *, C]
        r: Tensor,  # [N, *, C]
        norm: nn.Module,
        scale: Tensor | None = None,  # [C]
        keep: Tensor | None = None,  # [N]
    ) -> tuple[Tensor, Tensor]:  # [N, *, C], [N, *, C]
        """(y, norm(y)) of y = x + keep·scale·r, in one pass where `norm` is an ordinary LayerNorm.

        The residual stream and what enters the next sublayer.
        """
        r = _as_scaled(x, r, scale)
        # autocast runs a LayerNorm in float32 on some devices
        stream = torch.promote_types(x.dtype, r.dtype)
        cast = autocast_dtype(x) is not None and stream not in (torch.float32, torch.float64)
        if cast or not normalizes_rows(norm, x):
            y = self.add(x, r, scale=scale, keep=keep)
            return y, norm(y)
        assert isinstance(norm, nn.LayerNorm)
        measured, p = self._measured()
        recover = self.recompute != "none"
        y, normed, energy, _mean, _rstd = torch.ops.trgl.residual_energy_layer_norm.default(
            x, r, norm.weight, norm.bias, norm.eps, scale, keep, p, measured, recover
        )
        return self._report(x, y, energy, None), normed

    def _measured(self) -> tuple[bool, float]:
        """Whether an operator is to take the residue's energy, and its exponent."""
        energies = current()
        if energies is None:
            return False, 2.0
        return self.energy == "residue", energies.p

    def _report(
        self,
        x: Tensor,  # [N, C, *]
        y: Tensor,  # [N, C, *]
        energy: Tensor | None,  # [N]
        after: nn.Module | None,
    ) -> Tensor:  # [N, C, *]
        """Applies what could not be fused, and hands the energy to the collector."""
        if after is not None:
            y = after(y)
        energies = current()
        if energies is not None:
            if energy is None or self.energy == "displacement":
                energy = displacement_energy(x, y, p=energies.p)
            energies.add(energy, math.prod(y.shape[1:]))
        return y


def _fused(activation: str | nn.Module) -> tuple[str, nn.Module | None]:
    """The activation as the operators know it, and the module that has to run after them."""
    if isinstance(activation, str):
        return activation, None
    return ("relu", None) if rectifies(activation) else ("none", activation)


def _as_scaled(
    x: Tensor,  # [N, *]
    r: Tensor,  # [N, *]
    scale: Tensor | None,  # [C]
) -> Tensor:  # [N, *]
    """r in the type of scale·r where that decides the type of the sum.

    The operators cast `scale` to the types of x and r, as they cast what BN holds; PyTorch promotes
    a bfloat16 residue to the float32 of its LayerScale, and the stream with it.
    """
    if scale is None:
        return r
    scaled = torch.promote_types(r.dtype, scale.dtype)
    wider = torch.promote_types(x.dtype, scaled) != torch.promote_types(x.dtype, r.dtype)
    return r.to(scaled) if wider else r


class RegularizedResidual(Regularized):
    """y = act(shortcut(x) + branch(x)), with the energy of branch(x).

    The block for any residual branch of one's own.

        block = RegularizedResidual(nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64)))

    Args:
        branch: a module (or any callable) from [N, C, *] to the shortcut's shape.
        shortcut: what the residue is added to, a module or a callable; None is the identity.
        activation: "none" or "relu", after the addition.
        energy: "residue" or "displacement".
        recompute: "none", "residue" or "activation", see `with_recompute`; the last two are the
            same here, for the branch runs as it is. None is "none" until `trgl.split` or
            `regularize` chooses.

    Raises:
        ValueError: a branch or shortcut that cannot be called; another activation, energy or
            recompute; in forward, shapes that disagree, or a branch that returns no tensor.
    """

    def __init__(
        self,
        branch: Callable[[Tensor], Tensor],
        shortcut: Callable[[Tensor], Tensor] | None = None,
        activation: str = "none",
        energy: str = "residue",
        recompute: str | None = None,
    ) -> None:
        super().__init__()
        for name, part in (("branch", branch), ("shortcut", shortcut)):
            if isinstance(part, type) or not (callable(part) or (name, part) == ("shortcut", None)):
                raise refusal(
                    f"RegularizedResidual: {name} must be a module or another callable",
                    f"the class {part.__name__}" if isinstance(part, type) else repr(part),
                    "Build it first, such as nn.Conv2d(16, 16, 3, padding=1).",
                )
        if activation not in ACTIVATIONS:
            raise refusal(
                f"RegularizedResidual: activation must be one of {', '.join(ACTIVATIONS)}",
                repr(activation),
                "Follow the block by another activation, with activation='none'.",
            )
        self.branch = branch
        self.shortcut = shortcut
        self.activation = activation
        self.with_energy(energy)
        if recompute is not None:
            self.with_recompute(recompute)

    def forward(
        self,
        x: Tensor,  # [N, C, *]
    ) -> Tensor:  # [N, C', *]
        shortcut = x if self.shortcut is None else self.shortcut(x)
        r = self.branch(x)
        for name, value in (("branch", r), ("shortcut", shortcut)):
            if not isinstance(value, Tensor):
                rule = f"RegularizedResidual: {name} must return a tensor"
                raise refusal(rule, f"a {type(value).__name__}", "Wrap it to return what is added.")
        return self.add(shortcut, r, self.activation, held=self.shortcut is None)
