"""Transformer blocks of torchvision, which have two residues each: attention and MLP."""

import torch
from torch import Tensor, nn
from torchvision.models import swin_transformer, vision_transformer

from .residual import Regularized


class RegularizedSwinBlock(Regularized, swin_transformer.SwinTransformerBlock):
    """torchvision's SwinTransformerBlock, with the energies of attention and MLP.

        y = x + keep·attn(norm1 x),   out = y + keep·mlp(norm2 y)

    Constructor, parameters and state_dict keys are torchvision's; the addition and norm2 run in one
    pass, and stochastic depth is a factor per sample. (Liu et al., "Swin Transformer", ICCV 2021.)
    """

    norm1: nn.Module
    attn: nn.Module
    norm2: nn.Module
    mlp: nn.Module
    stochastic_depth: nn.Module

    def forward(
        self,
        x: Tensor,  # [N, H, W, C]
    ) -> Tensor:  # [N, H, W, C]
        r, keep = self.drop(self.stochastic_depth, self.attn(self.norm1(x)))
        x, normed = self.add_and_normalize(x, r, self.norm2, keep=keep)
        r, keep = self.drop(self.stochastic_depth, self.mlp(normed))
        return self.add(x, r, keep=keep)


class RegularizedSwinBlockV2(Regularized, swin_transformer.SwinTransformerBlockV2):
    """torchvision's SwinTransformerBlockV2, whose norms come after attention and MLP.

        y = x + keep·norm1(attn x),   out = y + keep·mlp_normed(y),   mlp_normed = norm2(mlp y)

    Attention keeps windows of x and not x itself, so that recovering residues holds one map per
    block more than no penalty does, and keeping them two. (Liu et al., "Swin Transformer V2", CVPR
    2022.)
    """

    norm1: nn.Module
    attn: nn.Module
    norm2: nn.Module
    mlp: nn.Module
    stochastic_depth: nn.Module

    def forward(
        self,
        x: Tensor,  # [N, H, W, C]
    ) -> Tensor:  # [N, H, W, C]
        r, keep = self.drop(self.stochastic_depth, self.norm1(self.attn(x)))
        x = self.add(x, r, keep=keep)
        r, keep = self.drop(self.stochastic_depth, self.norm2(self.mlp(x)))
        return self.add(x, r, keep=keep)


class RegularizedViTBlock(Regularized, vision_transformer.EncoderBlock):
    """torchvision's EncoderBlock, with the energies of attention and MLP.

        y = x + dropout(self_attention(ln_1 x)),   out = y + mlp(ln_2 y)

    Constructor, parameters and state_dict keys are torchvision's; the addition and ln_2 run in one
    pass. (Dosovitskiy et al., "An image is worth 16x16 words", ICLR 2021.)
    """

    ln_1: nn.Module
    self_attention: nn.Module
    dropout: nn.Module
    ln_2: nn.Module
    mlp: nn.Module

    def forward(
        self,
        input: Tensor,  # [N, S, C]
    ) -> Tensor:  # [N, S, C]
        torch._assert(
            input.dim() == 3, f"Expected (batch_size, seq_length, hidden_dim) got {input.shape}"
        )
        normed = self.ln_1(input)
        r, _ = self.self_attention(normed, normed, normed, need_weights=False)
        x, normed = self.add_and_normalize(input, self.dropout(r), self.ln_2)
        return self.add(x, self.mlp(normed))
