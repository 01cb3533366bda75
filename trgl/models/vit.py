"""Vision transformers for images of any size."""

from __future__ import annotations

from torch import nn

# blocks, heads, width, width of the MLP
_SIZES = {
    "tiny": (12, 3, 192, 768),
    "small": (12, 6, 384, 1536),
    "b": (12, 12, 768, 3072),
    "l": (24, 16, 1024, 4096),
    "h": (32, 16, 1280, 5120),
}
_PATCH = 4  # of tiny and small, whose names do not say it


def vit(name: str, shape: tuple[int, ...], classes: int, patch: int = 0) -> nn.Module:
    """torchvision's VisionTransformer.

    Args:
        name: vit_b_16 and others of torchvision's, vit_tiny or vit_small (those of DeiT).
        shape: (C, H, W) of one image, H = W.
        classes: of its own classifier.
        patch: side of a patch, dividing H; 0 is that in the name, 4 for tiny and small.

    Raises:
        ValueError: images that are not square, or that patches do not divide.

    Source: Dosovitskiy et al., "An image is worth 16×16 words", ICLR 2021; Touvron et al., DeiT,
    ICML 2021.
    """
    from torchvision.models import VisionTransformer  # slow to import

    channels, height, width = shape
    _, size, *own = name.split("_")
    patch = patch or (int(own[0]) if own else _PATCH)
    if height != width or height % patch:
        raise ValueError(
            f"A {name} needs square images whose side its patches divide, but got images of "
            f"{height}x{width} and patches of {patch} pixels. Set patch to a divisor."
        )
    blocks, heads, dim, mlp = _SIZES[size]
    model: nn.Module = VisionTransformer(
        height, patch, blocks, heads, dim, mlp, num_classes=classes
    )
    if channels != 3:
        model.conv_proj = nn.Conv2d(channels, dim, patch, patch)
    return model
