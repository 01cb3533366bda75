"""Residual blocks as anybody would write them in plain PyTorch, with the residues they add."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

# y and the residues of a block, from its input
Chain = Callable[[nn.Module, Tensor], tuple[Tensor, list[Tensor]]]


class PlainPreAct(nn.Module):
    """y = x + conv2(relu(bn2(conv1(relu(bn1 x))))), on the layers of one of our blocks.

    Its parameters come in the same order. A first block of a stage has no bn1.
    """

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.bn1, self.conv1, self.bn2, self.conv2 = block.bn1, block.conv1, block.bn2, block.conv2

    def residue(
        self,
        x: Tensor,  # [N, C, H, W]
    ) -> Tensor:  # [N, C, H, W]
        active = x if self.bn1 is None else F.relu(self.bn1(x))
        return self.conv2(F.relu(self.bn2(self.conv1(active))))

    def forward(
        self,
        x: Tensor,  # [N, C, H, W]
    ) -> Tensor:  # [N, C, H, W]
        return x + self.residue(x)


def pre_activation(block: PlainPreAct, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    r = block.residue(x)
    return x + r, [r]


def basic(block: nn.Module, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """torchvision's BasicBlock."""
    r = block.bn2(block.conv2(block.relu(block.bn1(block.conv1(x)))))
    return block.relu(x + r), [r]


def inverted_residual(block: nn.Module, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """torchvision's InvertedResidual."""
    r = block.conv(x)
    return x + r, [r]


def encoder_block(block: nn.Module, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """torchvision's EncoderBlock: attention and MLP."""
    normed = block.ln_1(x)
    attention, _ = block.self_attention(normed, normed, normed, need_weights=False)
    attention = block.dropout(attention)
    y = x + attention
    mlp = block.mlp(block.ln_2(y))
    return y + mlp, [attention, mlp]
