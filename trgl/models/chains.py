"""Networks whose blocks are all alike: the 20-1 networks and the wide K-M ResNets."""

from collections import OrderedDict

from torch import nn

from trgl_kernels import RegularizedPreActBlock

BLOCKS = ("pre-activation", "post-activation")


def chain(
    blocks: int = 20,
    filters: int = 32,
    in_channels: int = 1,
    *,
    kernel_size: int = 5,
    stride: int = 2,
    encoder_layers: int = 1,
    block: str = "pre-activation",
) -> nn.Sequential:
    """An encoder and blocks that all keep its shape: the 20-1 networks, with 20 modules of one.

    x_0 = ReLU(BN(conv(image))),  x_m = x_{m−1} + r_m(x_{m−1})

    Images [N, in_channels, H, W] become features [N, filters, ⌈H/stride⌉, ⌈W/stride⌉].

    Args:
        blocks: ≥ 1.
        filters: C ≥ 1.
        in_channels: of the images.
        kernel_size: of the encoder's last convolution, odd. MNIST: 5 with stride 2; digits: 3
            with 1.
        stride: of the encoder's last convolution, ≥ 1.
        encoder_layers: 1, or 2 as in the papers: in front a convolution 3×3 to filters // 2.
        block: "pre-activation" (the papers': no BN after r, no ReLU after the sum, no BN and ReLU
            at the start of the first block), or "post-activation" (y = ReLU(x + r)).

    Raises:
        ValueError: a number out of range, or another kind of block.

    Source: TRGL (Karkar et al., NeurIPS 2023), table 13; block-wise training, AAAI workshop 2022,
    table 8.
    """
    _check(blocks=blocks, filters=filters, in_channels=in_channels, stride=stride)
    return nn.Sequential(
        OrderedDict(
            encoder=_encoder(in_channels, filters, kernel_size, stride, encoder_layers),
            blocks=_stage(blocks, filters, block),
        )
    )


def wide_resnet(
    blocks: int,
    filters: int = 256,
    in_channels: int = 3,
    *,
    kernel_size: int = 5,
    stride: int = 2,
    encoder_layers: int = 1,
) -> nn.Sequential:
    """The wide K-M ResNet: K·M pre-activation blocks, half of them at half the size.

    At the midpoint a bare 1×1 convolution of stride 2 doubles the filters; it belongs to the block
    that follows and is not penalized. Split it with `modules=K, encoder="stem"`.

    Args:
        blocks: K·M ≥ 2; the first ⌊K·M/2⌋ have `filters`, the others twice as many.
        filters: C ≥ 1.
        in_channels: of the images.
        kernel_size: of the encoder's last convolution, odd.
        stride: of the encoder's last convolution, ≥ 1: the image's side divided by 16 for the
            papers'.
        encoder_layers: 1, or 2: in front a convolution 3×3 to filters // 2.

    Raises:
        ValueError: a number out of range.

    Source: TRGL (Karkar et al., NeurIPS 2023), tables 9 to 12; block-wise training, AAAI workshop
    2022, section "Experiments".
    """
    _check(blocks=blocks, filters=filters, in_channels=in_channels, stride=stride)
    if blocks < 2:
        raise ValueError(f"A wide ResNet has at least 2 blocks, but got {blocks}.")
    half = blocks // 2
    return nn.Sequential(
        OrderedDict(
            encoder=_encoder(in_channels, filters, kernel_size, stride, encoder_layers),
            stage1=_stage(half, filters, "pre-activation"),
            down=nn.Conv2d(filters, 2 * filters, 1, stride=2, bias=False),
            stage2=_stage(blocks - half, 2 * filters, "pre-activation"),
        )
    )


def _check(**numbers: int) -> None:
    for name, number in numbers.items():
        if not isinstance(number, int) or number < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, but got {number!r}.")


def _encoder(
    in_channels: int, filters: int, kernel_size: int, stride: int, layers: int
) -> nn.Sequential:
    if not isinstance(kernel_size, int) or kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"kernel_size must be odd and positive, but got {kernel_size!r}.")
    if layers not in (1, 2) or (layers == 2 and filters < 2):
        raise ValueError(
            f"encoder_layers must be 1, or 2 with at least 2 filters, but got {layers!r} with "
            f"{filters} filters."
        )
    front: list[nn.Module] = []
    if layers == 2:
        front = _convolution(in_channels, filters // 2, 3, 1)
        in_channels = filters // 2
    return nn.Sequential(*front, *_convolution(in_channels, filters, kernel_size, stride))


def _convolution(in_channels: int, channels: int, kernel_size: int, stride: int) -> list[nn.Module]:
    return [
        nn.Conv2d(in_channels, channels, kernel_size, stride, kernel_size // 2, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
    ]


def _stage(blocks: int, filters: int, block: str) -> nn.Sequential:
    if block == "pre-activation":
        return nn.Sequential(
            *(RegularizedPreActBlock(filters, filters, first=m == 0) for m in range(blocks))
        )
    if block == "post-activation":
        from trgl_kernels import RegularizedBasicBlock  # torchvision's: slow to import

        return nn.Sequential(*(RegularizedBasicBlock(filters, filters) for _ in range(blocks)))
    raise ValueError(f"block must be one of {', '.join(BLOCKS)}, but got {block!r}.")
