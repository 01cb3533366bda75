"""A network as a sequence of modules, each with a head of its own."""

from collections.abc import Iterator, Sequence
from typing import Self

from torch import Tensor, nn

from trgl_kernels import collect

from .assembled import Assembled
from .body import Body, Unit
from .encoder import Batches, FrozenEncoder
from .ownership import check_ownership
from .recompute import recomputed


class GreedyModule(nn.Module):
    """One module of a network: a body T_k and an auxiliary head F_k.

    features = T_k(x),  logits = F_k(features)

    Args:
        body: the layers of the module.
        head: maps features [N, *] to logits [N, classes].
        local_loss: what it minimizes in place of the criterion alone, with layers of its own that
            train with it; see `trgl.losses`. It is used in training only.
        freeze_head: the head's weights stay as they are, and it stays in evaluation mode.
        energy_terms: how many energies the body reports in one forward pass; None if unknown.
        recompute_head: autograd keeps nothing of the head, which runs again in backward.
    """

    body: Body
    head: nn.Module
    local_loss: nn.Module | None

    def __init__(
        self,
        body: Body,
        head: nn.Module,
        local_loss: nn.Module | None = None,
        *,
        freeze_head: bool = False,
        energy_terms: int | None = None,
        recompute_head: bool = False,
    ) -> None:
        super().__init__()
        self.body = body
        self.head = head
        self.local_loss = local_loss
        self.freeze_head = freeze_head
        self.energy_terms = energy_terms
        self.recompute_head = recompute_head
        if freeze_head:
            head.requires_grad_(False)
            head.eval()

    def train(self, mode: bool = True) -> Self:
        """As `nn.Module.train`; a frozen head stays in evaluation mode."""
        super().train(mode)
        if self.freeze_head:
            self.head.eval()
        return self

    def forward(
        self,
        x: Tensor,  # [N, *]
    ) -> tuple[Tensor, Tensor]:  # [N, *], [N, classes]
        """Returns the features for the next module and the logits of this one's head."""
        features = self.body(x)
        with collect.no_energy():
            if self.recompute_head:
                return features, recomputed(self.head, features)
            return features, self.head(features)


class GreedyNetwork(nn.Module):
    """K modules in a row, and what may stand in front of them.

    logits_k = F_k(T_k(… T_1(encoder(images))))

    `len(network)` is K, `network[0]` the first module, `for module in network` runs over all K.
    `network.encoder` is module 0: a `GreedyModule` when it is trained, a `FrozenEncoder` when it is
    not, or None. Depths and module numbers count from 1, as in the paper.

    Args:
        modules: the K modules, K ≥ 1. Their heads are all different, or all one and the same.
        encoder: module 0.
        input_shape: shape of one image, without the batch.
        num_classes: width of the logits.

    Raises:
        ValueError: no modules, some heads shared and some not, or a parameter or buffer that two
            modules own.

    Source: TRGL (Karkar et al., NeurIPS 2023), section 2.1.
    """

    encoder: GreedyModule | FrozenEncoder | None
    stages: nn.ModuleList

    def __init__(
        self,
        modules: Sequence[GreedyModule],
        encoder: GreedyModule | FrozenEncoder | None = None,
        *,
        input_shape: Sequence[int],
        num_classes: int,
    ) -> None:
        super().__init__()
        if not modules:
            raise ValueError("A network needs at least one module, but got none. Give it one.")
        for module in modules:
            if not isinstance(module, GreedyModule):
                raise ValueError(
                    f"A network consists of GreedyModules, but got {type(module).__name__}. Wrap "
                    f"it: GreedyModule(body, head), or let trgl.split do so."
                )
        self.encoder = encoder
        self.stages = nn.ModuleList(modules)
        self.input_shape = tuple(input_shape)
        self.num_classes = num_classes
        heads = len({id(module.head) for module in modules})
        if heads not in (1, len(modules)):
            raise ValueError(
                f"The heads of a network must be all different or all the same one, but "
                f"{len(modules)} modules have {heads} heads. Build one head per module."
            )
        self.head_is_shared = heads == 1 and len(modules) > 1
        check_ownership(self._parts())

    def _parts(self) -> Iterator[tuple[str, nn.Module]]:
        for number, body in self._bodies():
            yield f"module {number}", body
        for number, module in self.trained:
            shared = self.head_is_shared and number > 0
            yield "the shared head" if shared else f"module {number}", module.head
            if module.local_loss is not None:
                yield f"module {number}", module.local_loss

    def _bodies(self, depth: int | None = None) -> list[tuple[int, Body]]:
        front = self.encoder.body if isinstance(self.encoder, GreedyModule) else self.encoder
        bodies = [] if front is None else [(0, front)]
        bodies += [(k, module.body) for k, module in enumerate(self, 1)]
        return bodies if depth is None else [(k, body) for k, body in bodies if k <= depth]

    def __len__(self) -> int:
        return len(self.stages)

    def __getitem__(self, index: int) -> GreedyModule:
        if isinstance(index, slice):
            raise ValueError(
                f"A network gives one module at a time, but got {index}. Use list(network) for "
                f"several, or network.assemble(depth) for a model of the first ones."
            )
        module = self.stages[index]
        assert isinstance(module, GreedyModule)
        return module

    def __iter__(self) -> Iterator[GreedyModule]:
        return (self[index] for index in range(len(self)))

    @property
    def trained(self) -> list[tuple[int, GreedyModule]]:
        """Pairs (number, module) of all that train: module 0 is an encoder that is not frozen."""
        front = [(0, self.encoder)] if isinstance(self.encoder, GreedyModule) else []
        return front + list(enumerate(self, 1))

    def forward(
        self,
        images: Tensor,  # [N, *input_shape]
        depth: int | None = None,
    ) -> Tensor:  # [N, classes]
        """Logits of the module at `depth`; deeper modules are not run.

        Args:
            images: [N, C, H, W] in general, [N, *input_shape] exactly as given to `split`, although
                heads that pool globally accept other sizes.
            depth: 1 to K; None is K.

        Returns:
            [N, classes].

        Raises:
            ValueError: the depth is out of range, or the images have another rank or channels.
        """
        depth = self._depth(depth)
        self._check(images)
        features = images
        for _, body in self._bodies(depth):
            features = body(features)
        logits: Tensor = self[depth - 1].head(features)
        return logits

    def walk(
        self,
        images: Tensor,  # [N, *input_shape]
    ) -> Iterator[tuple[int, Tensor, Tensor]]:  # k, [N, *], [N, classes]
        """Yields (number, features, logits) of every trained module, front to back, in one pass."""
        self._check(images)
        x = images
        if isinstance(self.encoder, FrozenEncoder):
            x = self.encoder(x)
        for number, module in self.trained:
            x, logits = module(x)
            yield number, x, logits

    def all_logits(
        self,
        images: Tensor,  # [N, *input_shape]
    ) -> list[Tensor]:  # K of [N, classes]
        """Logits at the depths 1 to K in one pass."""
        return [logits for number, _, logits in self.walk(images) if number > 0]

    def assemble(self, depth: int | None = None) -> Assembled:
        """An ordinary model of the modules up to `depth`, with the head of that depth.

        It shares its layers with the network: `copy.deepcopy` it for an independent one. The
        state_dict keys are those of the model that was split, and `head.*`. It is in the network's
        mode; a frozen encoder and a frozen head stay in evaluation mode.

        Args:
            depth: 1 to K; None is K.

        Raises:
            ValueError: the depth is out of range.
        """
        depth = self._depth(depth)
        units = [unit for _, body in self._bodies(depth) for unit in body.named_units()]
        last = self[depth - 1]
        frozen = self.encoder.names if isinstance(self.encoder, FrozenEncoder) else []
        model = Assembled(units, last.head, frozen + ["head"] * last.freeze_head)
        model.set_mode(self.training)
        return model

    def whole(self) -> GreedyModule:
        """The network as one module for end-to-end training: all bodies, and the last head.

        It shares its layers with the network. A frozen encoder stays in front, outside of it. Local
        losses are no part of it.
        """
        bodies = [module.body for _, module in self.trained]
        units: list[Unit] = []
        measured: list[tuple[int, int]] = []
        for body in bodies:
            measured += [(a + len(units), b + len(units)) for a, b in body.measured]
            units += body.named_units()
        terms = [module.energy_terms for module in self]
        return GreedyModule(
            Body(units, measured),
            self[-1].head,
            freeze_head=self[-1].freeze_head,
            energy_terms=None if None in terms else sum(term or 0 for term in terms),
            recompute_head=self[-1].recompute_head,
        )

    def calibrate(self, loader: Batches) -> None:
        """Takes the frozen encoder's BN statistics from `loader`; see `FrozenEncoder.calibrate`.

        Raises:
            ValueError: the network has no frozen encoder, or the loader is empty.
        """
        if not isinstance(self.encoder, FrozenEncoder):
            raise ValueError(
                "Only a frozen encoder is calibrated, but this network has none: other statistics "
                "follow the training. Split with encoder='stem' and freeze_encoder=True."
            )
        self.encoder.calibrate(loader)

    def _depth(self, depth: int | None) -> int:
        if depth is None:
            return len(self)
        if not isinstance(depth, int) or not 1 <= depth <= len(self):
            raise ValueError(
                f"The depth must be a module number from 1 to {len(self)}, but got {depth!r}."
            )
        return depth

    def _check(self, images: Tensor) -> None:
        if not isinstance(images, Tensor):
            raise ValueError(
                f"A network takes a tensor of images, but got {type(images).__name__}. Convert it "
                f"by torch.as_tensor."
            )
        if images.dim() != len(self.input_shape) + 1 or images.shape[1] != self.input_shape[0]:
            raise ValueError(
                f"The network was split for images [N, {', '.join(map(str, self.input_shape))}], "
                f"but got {list(images.shape)}. Split it with the input_shape of these images."
            )
