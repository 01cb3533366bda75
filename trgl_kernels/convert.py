"""`regularize`: an existing model with regularized blocks in place of its own."""

from typing import TypeVar

from torch import nn
from torchvision.models import resnet

from .blocks import Regularized, RegularizedBasicBlock, RegularizedBottleneck
from .checks import refusal

# exact types only: a subclass may compute something else
_TWINS: dict[type[nn.Module], type[Regularized]] = {
    resnet.BasicBlock: RegularizedBasicBlock,
    resnet.Bottleneck: RegularizedBottleneck,
}

RECOMPUTE = ("none",)

M = TypeVar("M", bound=nn.Module)


def regularize(model: M, recompute: str = "none", energy: str = "residue") -> M:
    """Swaps every known residual block of `model`, in place, for its regularized twin.

    Parameters, buffers, hooks, state_dict keys and outputs stay as they are; inside
    `collect_energy()` the blocks report their energies as well. Known are the blocks of
    torchvision's ResNet, ResNeXt and Wide ResNet. Regularized blocks that are already there only
    take on `energy`.

        model = regularize(torchvision.models.resnet50(weights="DEFAULT"))

    Args:
        model: any module; a block itself is swapped too, so use what is returned.
        recompute: "none" keeps what autograd keeps.
        energy: "residue", ‖r‖² as r enters the addition, or "displacement",
            ‖y − shortcut(x)‖² after the activation.

    Returns:
        The model (its twin, where the model itself is a block).

    Raises:
        ValueError: no known block in the model, or another `recompute` or `energy`.
    """
    if recompute not in RECOMPUTE:
        raise refusal(
            f"regularize: recompute must be one of {', '.join(RECOMPUTE)}",
            repr(recompute),
            "Leave it out.",
        )
    swapped: dict[nn.Module, Regularized] = {}
    # a block that has two names stays one block
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if isinstance(module, Regularized):
            swapped[module] = module.with_energy(energy)
            continue
        twin = _TWINS.get(type(module))
        if twin is None:
            continue
        if module not in swapped:
            swapped[module] = _as(twin, module).with_energy(energy)
        if not name:
            return swapped[module]  # type: ignore[return-value]
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, swapped[module])
    if not swapped:
        raise refusal(
            "regularize: the model must have a residual block that is known",
            f"{type(model).__name__} with none",
            "Build it from trgl_kernels.RegularizedResidual, which takes any branch.",
        )
    return model


def _as(twin: type[Regularized], block: nn.Module) -> Regularized:
    """A `twin` that owns everything that `block` owned, without initializing it anew."""
    new = twin.__new__(twin)
    new.__dict__ = dict(block.__dict__)
    return new
