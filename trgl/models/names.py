"""The names of the networks that recipes and `trgl memory` know."""

from .. import own_code
from ..near import meant

RESNETS = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d"),
    *("wide_resnet50_2", "wide_resnet101_2"),
)
VGGS = tuple(f"vgg{depth}{norm}" for depth in (11, 13, 16, 19) for norm in ("", "_bn"))
DENSENETS = ("densenet121", "densenet161", "densenet169", "densenet201")
SWINS = ("swin_t", "swin_s", "swin_b", "swin_v2_t", "swin_v2_s", "swin_v2_b")
VITS = ("vit_tiny", "vit_small", "vit_b_16", "vit_b_32", "vit_l_16", "vit_l_32", "vit_h_14")
MOBILE = ("mobilenet_v2",)
EFFICIENTNETS = (
    *(f"efficientnet_b{size}" for size in range(8)),
    *("efficientnet_v2_s", "efficientnet_v2_m", "efficientnet_v2_l"),
)
PAPERS = ("blocks", "wide", "resnet110")
NETWORKS = (*PAPERS, *RESNETS, *VGGS, *DENSENETS, *SWINS, *VITS, *MOBILE, *EFFICIENTNETS)

TIMM = "timm:"  # in front of a name of timm's
WITH_ENCODER = ("blocks", "wide", "resnet110")  # whose first layers may be module 0
WITH_STEM = (*RESNETS, *DENSENETS, *MOBILE, *EFFICIENTNETS)  # whose first convolution is chosen
CHANNELS_ANYWHERE = (*SWINS, *VITS)  # features that are no maps [N, C, H, W]


def check(name: str) -> None:
    """Holds that there is a network of this name.

    A name of timm's, behind "timm:", and a user's own FILE.py:NAME are looked for where the network
    is built.

    Raises:
        ValueError: there is none; the message suggests the nearest name.
    """
    timm = name.startswith(TIMM) and len(name) > len(TIMM)
    if name in NETWORKS or timm or own_code.is_reference(name):
        return
    own_code.check_named(name)
    raise ValueError(
        f"there is no network {name!r}.{meant(name, NETWORKS)} `trgl memory --help` says which "
        f"there are; use {TIMM}NAME for a model of timm's, FILE.py:NAME for one of your own."
    )
