"""What every regularized block does at its end, and the block around any branch."""

import math

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from ..checks import ACTIVATIONS, refusal
from ..collect import current
from ..displacement_energy import displacement_energy

ENERGIES = ("residue", "displacement")


class Regularized(nn.Module):
    """A residual block that adds its energy to the innermost collector.

    `energy` says which: "residue" is ‖r‖², r as it enters the addition; "displacement" is
    ‖y − shortcut(x)‖², measured after the activation.
    """

    energy: str = "residue"

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

    def add(
        self,
        x: Tensor,  # [N, C, *]
        r: Tensor,  # [N, C, *]
        activation: str | nn.Module = "none",
        scale: Tensor | None = None,  # [C]
        keep: Tensor | None = None,  # [N]
    ) -> Tensor:  # [N, C, *]
        """y = act(x + keep·scale·r); its energy goes to the collector, if there is one."""
        name, after = _fused(activation)
        energies = current()
        measured = energies is not None and self.energy == "residue"
        p = 2.0 if energies is None else energies.p
        plain = name == "none" and scale is None and keep is None
        if not measured and plain and x.shape == r.shape:
            # saves nothing, and a later in-place activation may overwrite it
            return self._report(x, x + r, None, after)
        y, energy = torch.ops.trgl.residual_energy.default(
            x, r, name, scale, keep, p, measured, False
        )
        return self._report(x, y, energy, after)

    def normalize_and_add(
        self,
        bn: nn.Module,
        z: Tensor,  # [N, C, *]
        x: Tensor,  # [N, C, *]
        activation: str | nn.Module = "none",
        keep: Tensor | None = None,  # [N]
    ) -> Tensor:  # [N, C, *]
        """y = act(x + keep·bn(z)), in one pass where `bn` is an ordinary BatchNorm."""
        if not fusible(bn):
            return self.add(x, bn(z), activation, keep=keep)
        assert isinstance(bn, nn.modules.batchnorm._BatchNorm)
        bn._check_input_dim(z)
        name, after = _fused(activation)
        energies = current()
        measured = energies is not None and self.energy == "residue"
        p = 2.0 if energies is None else energies.p
        training, momentum = advance(bn)
        tracked = not bn.training or bn.track_running_stats
        y, energy, _mean, _rstd = torch.ops.trgl.batch_norm_residual_energy.default(
            z,
            x,
            bn.weight,
            bn.bias,
            bn.running_mean if tracked else None,
            bn.running_var if tracked else None,
            training,
            momentum,
            bn.eps,
            name,
            keep,
            p,
            measured,
        )
        return self._report(x, y, energy, after)

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
    if type(activation) is nn.ReLU and not customized(activation):
        return "relu", None
    return "none", activation


def customized(module: nn.Module) -> bool:
    """Whether calling `module` does something else than the forward of its class."""
    return bool(
        "forward" in vars(module)
        or module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or _has_any_global_hook()
    )


def fusible(bn: nn.Module) -> bool:
    """Whether `bn` is an ordinary BatchNorm, whose call may be replaced by a fused operator."""
    ordinary = type(bn) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    return ordinary and not customized(bn)


def advance(bn: nn.modules.batchnorm._BatchNorm) -> tuple[bool, float]:
    """Counts a batch as BatchNorm does; (whether the batch's statistics are used, momentum)."""
    momentum = 0.0 if bn.momentum is None else bn.momentum
    if bn.training and bn.track_running_stats and bn.num_batches_tracked is not None:
        bn.num_batches_tracked.add_(1)
        if bn.momentum is None:
            momentum = 1.0 / float(bn.num_batches_tracked)
    return bn.training or bn.running_mean is None, momentum


class RegularizedResidual(Regularized):
    """y = act(shortcut(x) + branch(x)), with the energy of branch(x).

    The block for any residual branch of one's own.

        block = RegularizedResidual(nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64)))

    Args:
        branch: from [N, C, *] to the shortcut's shape.
        shortcut: what the residue is added to; None is the identity.
        activation: "none" or "relu", after the addition.
        energy: "residue" or "displacement".

    Raises:
        ValueError: another activation or energy; in forward, shapes that disagree.
    """

    def __init__(
        self,
        branch: nn.Module,
        shortcut: nn.Module | None = None,
        activation: str = "none",
        energy: str = "residue",
    ) -> None:
        super().__init__()
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

    def forward(
        self,
        x: Tensor,  # [N, C, *]
    ) -> Tensor:  # [N, C', *]
        shortcut = x if self.shortcut is None else self.shortcut(x)
        return self.add(shortcut, self.branch(x), self.activation)
