"""Blocks of timm's models; importing this needs timm.

Constructors, parameters and state_dict keys are timm's. What stands between a last BN and the
addition in some of timm's ResNets (squeeze-and-excitation), or between a BN and its ReLU or behind
it (DropBlock, anti-aliasing), is not known here: `convertible` says so.
"""

from collections.abc import Callable
from typing import Any

import torch
from timm.models import resnet, swin_transformer, vision_transformer
from torch import Tensor, nn

from ..ordinary import customized, drawn, drops_samples
from .residual import Regularized


class RegularizedTimmBasicBlock(Regularized, resnet.BasicBlock):
    """timm's BasicBlock, y = act2(shortcut(x) + keep·bn2(conv2(act1(bn1(conv1 x)))))."""

    conv1: nn.Module
    bn1: nn.Module
    act1: nn.Module
    conv2: nn.Module
    bn2: nn.Module
    act2: nn.Module
    drop_path: nn.Module | None
    downsample: nn.Module | None

    def forward(
        self,
        x: Tensor,  # [N, C, H, W]
    ) -> Tensor:  # [N, C', H', W']
        z = self.convolve(self.bn1, self.act1, self.conv2, self.conv1(x))
        held = self.downsample is None
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.normalize_and_add(
            self.bn2, z, shortcut, self.act2, drop=self.drop_path, held=held
        )


class RegularizedTimmBottleneck(Regularized, resnet.Bottleneck):
    """timm's Bottleneck, y = act3(shortcut(x) + keep·bn3(conv3(...)))."""

    conv1: nn.Module
    bn1: nn.Module
    act1: nn.Module
    conv2: nn.Module
    bn2: nn.Module
    act2: nn.Module
    conv3: nn.Module
    bn3: nn.Module
    act3: nn.Module
    drop_path: nn.Module | None
    downsample: nn.Module | None

    def forward(
        self,
        x: Tensor,  # [N, C, H, W]
    ) -> Tensor:  # [N, C', H', W']
        z = self.convolve(self.bn1, self.act1, self.conv2, self.conv1(x))
        z = self.convolve(self.bn2, self.act2, self.conv3, z)
        held = self.downsample is None
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.normalize_and_add(
            self.bn3, z, shortcut, self.act3, drop=self.drop_path, held=held
        )


def _scale_of(module: nn.Module) -> Tensor | None:  # [C]
    """The factors of an ordinary LayerScale; None for anything else."""
    ordinary = type(module).__name__ == "LayerScale" and type(module).__module__.startswith("timm.")
    if not ordinary or customized(module):
        return None
    gamma = module.gamma
    assert isinstance(gamma, Tensor)
    return gamma


class RegularizedTimmViTBlock(Regularized, vision_transformer.Block):
    """timm's vision transformer Block: residues of attention and MLP after ls and drop_path."""

    norm1: nn.Module
    attn: nn.Module
    ls1: nn.Module
    drop_path1: nn.Module
    norm2: nn.Module
    mlp: nn.Module
    ls2: nn.Module
    drop_path2: nn.Module

    def forward(
        self,
        x: Tensor,  # [N, S, C]
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:  # [N, S, C]
        r = self.attn(self.norm1(x), *args, **kwargs)
        r, scale, keep = self._factors(r, self.ls1, self.drop_path1)
        x, normed = self.add_and_normalize(x, r, self.norm2, scale, keep)
        r, scale, keep = self._factors(self.mlp(normed), self.ls2, self.drop_path2)
        return self.add(x, r, scale=scale, keep=keep)

    def _factors(
        self,
        r: Tensor,  # [N, S, C]
        layer_scale: nn.Module,
        drop: nn.Module,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:  # [N, S, C], [C], [N]
        """(r, scale, keep) such that keep·scale·r is drop(layer_scale(r))."""
        scale = _scale_of(layer_scale) if drops_samples(drop) else None
        if scale is None:
            r, keep = self.drop(drop, layer_scale(r))
            return r, None, keep
        wide = torch.promote_types(r.dtype, scale.dtype)  # of what the DropPath was given
        return r, scale, drawn(drop, r.new_empty((len(r), 0), dtype=wide))


class RegularizedTimmSwinBlock(Regularized, swin_transformer.SwinTransformerBlock):
    """timm's SwinTransformerBlock: residues of attention and MLP after drop_path."""

    norm1: nn.Module
    _attn: Callable[[Tensor], Tensor]
    drop_path1: nn.Module
    norm2: nn.Module
    mlp: nn.Module
    drop_path2: nn.Module

    def forward(
        self,
        x: Tensor,  # [N, H, W, C]
    ) -> Tensor:  # [N, H, W, C]
        shape = x.shape
        rows = (shape[0], -1, shape[3])
        r, keep = self.drop(self.drop_path1, self._attn(self.norm1(x)))
        x, normed = self.add_and_normalize(x.reshape(rows), r.reshape(rows), self.norm2, keep=keep)
        r, keep = self.drop(self.drop_path2, self.mlp(normed))
        return self.add(x, r, keep=keep).reshape(shape)


TWINS: dict[type[nn.Module], type[Regularized]] = {
    resnet.BasicBlock: RegularizedTimmBasicBlock,
    resnet.Bottleneck: RegularizedTimmBottleneck,
    vision_transformer.Block: RegularizedTimmViTBlock,
    swin_transformer.SwinTransformerBlock: RegularizedTimmSwinBlock,
}


def convertible(block: nn.Module) -> bool:
    """Whether nothing but what the twins know stands in the block."""
    nothing = (type(None), nn.Identity)
    return all(type(getattr(block, name, None)) in nothing for name in ("se", "drop_block", "aa"))
