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

    Modules, parameters, buffers, hooks, state_dict keys and outputs stay as they are; inside
    `collect_energy()` the blocks report their energies as well. Known are the blocks of
    torchvision's ResNet, ResNeXt and Wide ResNet. Regularized blocks that are already there only
    take on `energy`.

        model = regularize(torchvision.models.resnet50(weights="DEFAULT"))

    Args:
        model: any module; it may be a block itself.
        recompute: "none" keeps what autograd keeps.
        energy: "residue", ‖r‖² as r enters the addition, or "displacement",
            ‖y − shortcut(x)‖² after the activation.

    Returns:
        The model.

    Raises:
        ValueError: no known block in the model, or another `recompute` or `energy`.
    """
    if recompute not in RECOMPUTE:
        raise refusal(
            f"regularize: recompute must be one of {', '.join(RECOMPUTE)}",
            repr(recompute),
            "Leave it out.",
        )
    found = 0
    for module in model.modules():
        twin = _TWINS.get(type(module))
        if twin is not None:
            # the object stays, and with it its hooks and whatever else refers to it
            module.__class__ = twin
        if isinstance(module, Regularized):
            module.with_energy(energy)
            found += 1
    if not found:
        raise refusal(
            "regularize: the model must have a residual block that is known",
            f"{type(model).__name__} with none",
            "Build it from trgl_kernels.RegularizedResidual, which takes any branch.",
        )
    return model
