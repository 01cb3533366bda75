"""Layers without a shortcut: the displacement energy of VGG."""

from itertools import pairwise

from torch import Tensor, nn

from ..checks import refusal
from ..collect import current
from .residual import Regularized


class RegularizedPlain(Regularized, nn.Sequential):
    """Convolutions (with BN) and ReLUs in a row, each a layer whose displacement is its energy.

        e = ‖y − x‖²,   y = relu(bn(conv x)),   of every layer that keeps the shape of its input

    A layer is a convolution and all up to and including the next ReLU, with nothing between but a
    BN. Anything else in the row, such as a pooling, runs as it is and has no energy. Children and
    state_dict keys are those of the `nn.Sequential`, such as `features` of torchvision's VGG.

    Source: TRGL (Karkar et al., NeurIPS 2023), section 4 (VGG).
    """

    energy = "displacement"

    def with_energy(self, energy: str) -> "RegularizedPlain":
        """Accepts "displacement" alone: without a shortcut there is no residue."""
        if energy != "displacement":
            raise refusal(
                "energy of layers without a shortcut must be 'displacement'",
                repr(energy),
                "Use regularize(model, energy='displacement').",
            )
        super().with_energy(energy)
        return self

    def forward(
        self,
        input: Tensor,  # [N, C, H, W]
    ) -> Tensor:  # [N, C', H', W']
        x = input
        children = list(self)
        starts = _layers(children)
        for first, last in pairwise([*starts, len(children)]):
            y = x
            for child in children[first:last]:
                y = child(y)
            layer = isinstance(children[first], nn.Conv2d) and isinstance(
                children[last - 1], nn.ReLU
            )
            if layer and y.shape == x.shape and current() is not None:
                self._report(x, y, None, None)
            x = y
        return x


def _layers(children: list[nn.Module]) -> list[int]:
    """Where the layers and the children between them begin."""
    starts, position = [], 0
    while position < len(children):
        starts.append(position)
        end = position + 1
        if isinstance(children[position], nn.Conv2d):
            if end < len(children) and isinstance(children[end], nn.BatchNorm2d):
                end += 1
            if end < len(children) and isinstance(children[end], nn.ReLU):
                end += 1
            else:
                end = position + 1
        position = end
    return starts


def has_plain_layers(module: nn.Module) -> bool:
    """Whether `module` is an ordinary Sequential with a convolution (and BN) before a ReLU."""
    if type(module) is not nn.Sequential:
        return False
    children = list(module)
    return any(
        isinstance(children[first], nn.Conv2d) and last - first > 1
        for first, last in pairwise([*_layers(children), len(children)])
    )
