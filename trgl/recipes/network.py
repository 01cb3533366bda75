"""The fields of a recipe that say what is trained: network, split, heads, initialization."""

from __future__ import annotations

from dataclasses import dataclass

from trgl import own_code
from trgl.heads import HEADS
from trgl.models import names
from trgl.recipes.fields import option
from trgl_kernels.blocks.residual import RECOMPUTE

ENCODERS = ("stem", "trained", "random", "pretrained")
BALANCES = ("depth", "memory", "papers", "papers-balanced")
_MOST_BLOCKS = 10_000  # a network of more is a mistake that would fill the memory
INITS = ("own", "orthogonal", "truncated-normal")


@dataclass(frozen=True, kw_only=True)
class NetworkFields:
    """What is trained; see `trgl.recipes.Recipe`."""

    network: str = option(
        "the network: blocks (equal blocks in a row), wide (the wide K-M ResNet, its filters "
        "doubled half way), resnet110, a ResNet, ResNeXt, Wide ResNet, VGG, DenseNet, Swin, ViT, "
        "MobileNetV2 or EfficientNet by torchvision's name, vit_tiny, vit_small, timm:NAME, or "
        "FILE.py:NAME of a function (input_shape, num_classes) of your own, which is run"
    )
    modules: int = option("modules K, each with a loss of its own", unit="modules", least=1)
    balance: str = option(
        "blocks per module: depth (as many in each), memory (the heaviest module as light as can "
        "be), papers or papers-balanced (the published numbers), or a list such as 3,4,6,3",
        default="depth",
    )
    blocks: int = option(
        "residual blocks per module, for the networks blocks and wide",
        default=1,
        unit="blocks",
        least=1,
    )
    filters: int = option(
        "width of the networks blocks and wide (256 in the papers)",
        default=32,
        unit="channels",
        least=1,
    )
    block: str = option(
        "order inside a residual block, for the network blocks; other networks have their own",
        default="pre-activation",
        choices=("pre-activation", "post-activation"),
    )
    encoder: str = option(
        "what stands in front of the first block: stem (it belongs to module 1), trained (module "
        "0, with a classifier of its own), random (it does not move; its BN statistics are taken "
        "once from the training images) or pretrained (by an autoencoder on the training images, "
        "then it does not move)",
        default="stem",
        choices=ENCODERS,
    )
    encoder_layers: int = option(
        "its convolutions, for the networks blocks and wide: 1, or 2 of which the first is 3x3 "
        "to half the width",
        default=1,
        unit="convolutions",
        least=1,
    )
    encoder_kernel: int = option(
        "side of its last convolution, for the networks blocks and wide",
        default=3,
        unit="pixels",
        least=1,
    )
    encoder_stride: int = option(
        "stride of its last convolution, for the networks blocks and wide",
        default=1,
        unit="pixels",
        least=1,
    )
    pretrain_epochs: int = option(
        "epochs of the autoencoder that pretrains an encoder", default=50, unit="epochs", least=1
    )
    pretrain_learning_rate: float = option(
        "its learning rate, with Adam and the mean squared error", default=0.001, above=0
    )
    stem: str = option(
        "first layers of a ResNet: 3x3 stride 1; 7x7 stride 2; 7x7 stride 2 and max-pooling. The "
        "first convolution of a DenseNet likewise, that of MobileNetV2 and EfficientNet with "
        "stride 1; 2; 2",
        default="cifar",
        choices=("cifar", "tiny-imagenet", "imagenet"),
    )
    patch: int = option(
        "side of a Swin's or ViT's patches; 0 = the network's own",
        default=0,
        unit="pixels",
        least=0,
    )
    window: int = option(
        "side of a Swin's windows, in patches, at most that of a stage's map; 0 = the largest up "
        "to 7, for V2 to 8, that divides the map",
        default=0,
        unit="patches",
        least=0,
    )
    drop_path: float = option(
        "probability of dropping the last block's residue, growing from 0 at the first, for Swin, "
        "EfficientNet and timm's",
        default=0.0,
        least=0,
    )
    head: str = option("classifier of a module", default="conv", choices=tuple(HEADS))
    head_windows: tuple[int, ...] = option(
        "side of the pooling windows of the head conv, one number or one for each module, module "
        "0 first where it has a classifier; nothing = all positions",
        default=(),
        unit="pixels",
    )
    shared_head: bool = option("one classifier for all modules", default=False)
    recompute: str = option(
        "what residual blocks compute again in backward instead of keeping it: activation (these "
        "and residues), residue, or none, which is the fastest",
        default="activation",
        choices=RECOMPUTE,
    )
    recompute_heads: int = option(
        "how many modules, from the first on, keep no activation of their classifier for backward "
        "and run it again there, with the same result",
        default=0,
        unit="modules",
        least=0,
    )
    init: str = option(
        "initialization of convolutions and linear layers: own (that of the network's authors), "
        "orthogonal or truncated-normal",
        default="own",
        choices=INITS,
    )
    init_gain: float = option("gain of the orthogonal initialization", default=0.05, above=0)
    init_std: float = option(
        "standard deviation of the truncated normal initialization", default=0.02, above=0
    )

    def check_network(self) -> None:
        """Holds that the fields go together.

        Raises:
            ValueError: they do not.
        """
        names.check(self.network)
        if self.modules * self.blocks > _MOST_BLOCKS:
            raise ValueError(
                f"modules times blocks must be at most {_MOST_BLOCKS:,}, received {self.modules} "
                f"modules of {self.blocks} blocks; lower one of them."
            )
        if self.encoder_kernel % 2 == 0:
            raise ValueError(
                f"encoder_kernel must be odd, so that it has a middle, received "
                f"{self.encoder_kernel}; take {self.encoder_kernel + 1}."
            )
        if self.encoder_layers > 2 or (self.encoder_layers == 2 and self.filters < 2):
            raise ValueError(
                f"an encoder has 1 convolution, or 2 of which the first gives half of at least 2 "
                f"filters, received {self.encoder_layers} with {self.filters} filters; set "
                f"encoder_layers to 1."
            )
        bound = self.network not in names.WITH_ENCODER and not own_code.is_reference(self.network)
        if self.encoder != "stem" and bound:
            raise ValueError(
                f"the first layers of a {self.network} belong to module 1, received encoder "
                f"{self.encoder}; set encoder to stem, or network to one of "
                f"{', '.join(names.WITH_ENCODER)}."
            )
        if self.balance not in BALANCES:
            self.counts()
        for field, networks in (
            ("patch", (*names.SWINS, *names.VITS)),
            ("window", names.SWINS),
            ("drop_path", (*names.SWINS, *names.EFFICIENTNETS)),
        ):
            foreign = not self.network.startswith(names.TIMM) and self.network not in networks
            if getattr(self, field) and foreign:
                raise ValueError(
                    f"{field} is for networks such as {networks[0]}, received "
                    f"{getattr(self, field)} with the network {self.network}; set it to 0."
                )
        if self.drop_path >= 1:
            raise ValueError(f"drop_path must be below 1, received {self.drop_path}.")
        heads = self.modules + (self.encoder == "trained")
        windows = self.head_windows
        if windows and (self.head != "conv" or len(windows) not in (1, heads) or min(windows) < 1):
            raise ValueError(
                f"head_windows are sides of at least 1 for the head conv, one or {heads} of them, "
                f"received {list(windows)} with the head {self.head}; leave them out to pool over "
                f"all positions."
            )
        if self.recompute_heads > self.modules:
            raise ValueError(
                f"recompute_heads counts modules from the first on, received "
                f"{self.recompute_heads} with {self.modules} modules; set it to that for all."
            )

    @property
    def frozen_encoder(self) -> bool:
        """Whether an encoder stands in front that does not move."""
        return self.encoder in ("random", "pretrained")

    def counts(self) -> str | tuple[int, ...]:
        """The balance as `split` takes it: a name, or the blocks of each module.

        Raises:
            ValueError: neither a name nor one number of at least 1 for each module.
        """
        if self.balance in BALANCES:
            return self.balance
        parts = [part.strip() for part in self.balance.split(",")]
        counts = tuple(int(part) for part in parts if part.isdecimal())
        if len(counts) != len(parts) or len(counts) != self.modules or min(counts) < 1:
            raise ValueError(
                f"balance must be one of {', '.join(BALANCES)} or the blocks of each of "
                f"{self.modules} modules, such as {','.join('3' * self.modules)}, received "
                f"{self.balance!r}."
            )
        return counts
