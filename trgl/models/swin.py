"""Swin Transformers for images of any size."""

from __future__ import annotations

from typing import Any

from torch import nn

# width, blocks and attention heads of the stages
_SIZES = {
    "t": (96, (2, 2, 6, 2), (3, 6, 12, 24)),
    "s": (96, (2, 2, 18, 2), (3, 6, 12, 24)),
    "b": (128, (2, 2, 18, 2), (4, 8, 16, 32)),
}
_PATCH = 4


def swin(
    name: str,
    shape: tuple[int, ...],
    classes: int,
    patch: int = 0,
    window: int = 0,
    drop_path: float = 0.0,
) -> nn.Module:
    """torchvision's Swin or Swin V2, with windows that fit small images.

    On 96 pixels the windows have 6 patches, on 64 and 32 they have 4, on 224 they have 7; those of
    V2 have 8 on all of these. A stage whose map is smaller than the window has one window, the
    map, as in the authors' code.

    Args:
        name: swin_t, swin_s, swin_b, or swin_v2_t and so on.
        shape: (C, H, W) of one image.
        classes: of its own classifier.
        patch: side of a patch, dividing H and W; 0 is 4.
        window: side of a window, in patches; 0 is the largest up to 7 (V2: 8) that divides the map
            of the first stage.
        drop_path: of the last block, growing from 0 at the first, in [0, 1).

    Raises:
        ValueError: patches that do not divide the images.

    Source: Liu et al., "Swin Transformer", ICCV 2021, and "Swin Transformer V2", CVPR 2022.
    """
    from torchvision.models import swin_transformer as kinds  # slow to import

    channels, height, width = shape
    patch = patch or _PATCH
    if height % patch or width % patch:
        raise ValueError(
            f"A {name} needs images whose sides its patches divide, but got images of "
            f"{height}x{width} and patches of {patch} pixels. Set patch to a divisor."
        )
    second = "_v2_" in name
    dim, depths, heads = _SIZES[name.rsplit("_", 1)[1]]
    maps = [height // patch, width // patch]
    largest = 8 if second else 7
    windows = [window or max(w for w in range(1, largest + 1) if side % w == 0) for side in maps]
    model: nn.Module = kinds.SwinTransformer(
        [patch, patch],
        dim,
        list(depths),
        list(heads),
        windows,
        stochastic_depth_prob=drop_path,
        num_classes=classes,
        block=kinds.SwinTransformerBlockV2 if second else kinds.SwinTransformerBlock,
        downsample_layer=kinds.PatchMergingV2 if second else kinds.PatchMerging,
    )
    features = model.get_submodule("features")
    assert isinstance(features, nn.Sequential)
    if channels != 3:
        embed = features[0]
        assert isinstance(embed, nn.Sequential)
        embed[0] = nn.Conv2d(channels, dim, patch, patch)
    for stage in range(len(depths)):
        for block in features.get_submodule(str(2 * stage + 1)).children():
            # the position table of V2 has no form for a single patch
            _fit(block, [max(side, 2) for side in maps] if second else maps)
        maps = [-(-side // 2) for side in maps]
    return model


def _fit(block: Any, maps: list[int]) -> None:
    """Gives a block windows that are no larger than its map."""
    old = block.attn
    windows = [min(w, side) for w, side in zip(old.window_size, maps, strict=True)]
    if windows == old.window_size:
        return
    shifts = [
        s if w < side else 0 for s, w, side in zip(old.shift_size, windows, maps, strict=True)
    ]
    block.attn = type(old)(old.qkv.in_features, windows, shifts, old.num_heads)
    for layer in block.attn.modules():  # as the model itself draws them
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
