"""timm's networks; timm is optional."""

from __future__ import annotations

from torch import nn


def build(
    name: str,
    shape: tuple[int, ...],
    classes: int,
    *,
    patch: int = 0,
    window: int = 0,
    drop_path: float = 0.0,
) -> nn.Module:
    """A network of timm's, without pretrained weights.

    Args:
        name: as `timm.list_models()` has it, such as "resnet26" or "vit_tiny_patch16_224".
        shape: (C, H, W) of one image.
        classes: of its own classifier, which `split` drops.
        patch: side of the patches; 0 is its own.
        window: side of the windows; 0 is its own.
        drop_path: as timm's `drop_path_rate`.

    Raises:
        ValueError: timm is not installed, has no such network, or the network does not take one of
            these options or such images.
    """
    try:
        import timm
    except ImportError as error:
        raise ValueError(
            f"The network timm:{name} needs timm, which is not installed. Install it: pip install "
            f"'trgl[timm]'."
        ) from error
    if not timm.is_model(name):
        near = timm.list_models(f"*{name.split('_')[0]}*")[:5]
        raise ValueError(
            f"timm {timm.__version__} has no network {name!r}."
            + (f" It has {', '.join(near)}, and more." if near else "")
            + " See timm.list_models()."
        )
    options: dict[str, object] = {}
    settings = timm.models.get_pretrained_cfg(name)
    if settings is not None and settings.fixed_input_size:
        options["img_size"] = tuple(shape[1:])
    for option, value in (
        ("patch_size", patch),
        ("window_size", window),
        ("drop_path_rate", drop_path),
    ):
        if value:
            options[option] = value
    try:
        model: nn.Module = timm.create_model(
            name, pretrained=False, num_classes=classes, in_chans=shape[0], **options
        )
    except (TypeError, AssertionError, ValueError) as error:
        raise ValueError(
            f"timm cannot build {name} for images {'x'.join(map(str, shape))} with {options}: "
            f"{error}. Leave patch, window and drop_path out, or take another network."
        ) from error
    return model
