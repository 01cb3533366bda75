"""An encoder in front of the modules that does not move."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .body import Body, Unit

Batches = Iterable[Sequence[Tensor]]


class FrozenEncoder(Body):
    """Module 0 with fixed weights: it has no head, takes no gradient and stays in evaluation mode.

    Its batch normalizations use their running statistics, also after `network.train()`. A randomly
    initialized encoder gets these once from the training images by `calibrate`; a pretrained one
    brings them along.

    Args:
        units: pairs of a dotted name and a module, in the order of running.

    Raises:
        ValueError: a batch normalization keeps no running statistics, so that it cannot be frozen.
    """

    def __init__(self, units: Iterable[Unit]) -> None:
        super().__init__(units)
        for name, norm in self._norms():
            if norm.running_mean is None or norm.running_var is None:
                raise ValueError(
                    f"A frozen encoder needs batch normalizations with running statistics, but "
                    f"{name!r} has track_running_stats=False. Build it with "
                    f"track_running_stats=True, or train the encoder (freeze_encoder=False)."
                )
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stays in evaluation mode whatever is asked for."""
        return super().train(False)

    def _norms(self) -> list[tuple[str, _BatchNorm]]:
        return [(n, m) for n, m in self.named_modules() if isinstance(m, _BatchNorm)]

    @property
    def calibrated(self) -> bool:
        """Whether every batch normalization has seen images: the fresh 0 and 1 mislead."""
        return all(
            norm.num_batches_tracked is None or bool(norm.num_batches_tracked)
            for _, norm in self._norms()
        )

    def check_calibrated(self) -> None:
        """Holds that nothing is trained on features that are not normalized.

        Raises:
            ValueError: the encoder was never calibrated.
        """
        if not self.calibrated:
            raise ValueError(
                "A frozen encoder needs the statistics of its batch normalizations before "
                "training, but they are as freshly built. Call network.calibrate(loader) with the "
                "training images, or load a pretrained encoder."
            )

    @torch.no_grad()
    def calibrate(
        self,
        loader: Batches,  # of ([N, *], …)
    ) -> None:
        """Sets the statistics of every batch normalization from the images of `loader`.

        mean_c = Σ z / n,  var_c = Σ (z − mean_c)² / (n − 1) over all n values of channel c

        The values are pooled over all images (merged counts, means and sums of squares, in
        float64), so that batch size and order change nothing but rounding. A second normalization
        is measured after the first one is set, one pass over the images each: what the network
        computes afterwards is exactly normalized over these images.

        Args:
            loader: re-iterable of sequences whose first item is images [N, *]. Give the training
                images without random augmentation.

        Raises:
            ValueError: the loader is empty, can be iterated only once or gives no tensors, or a
                channel has fewer than two values.
        """
        if not isinstance(loader, Iterable) or isinstance(loader, Iterator):
            raise ValueError(
                f"Calibrating the encoder iterates over the images once per batch normalization, "
                f"so that it needs a loader that can be iterated again, but got "
                f"{type(loader).__name__}. Pass a DataLoader, trgl.data.Batches or a list."
            )
        norms: list[_BatchNorm] = []
        watch = [
            norm.register_forward_pre_hook(lambda norm, _: norms.append(norm))
            for _, norm in self._norms()
        ]
        try:
            for batch in loader:
                if not isinstance(batch, Sequence) or not isinstance(batch[0], Tensor):
                    raise ValueError(
                        f"A batch for calibrating must be a sequence whose first item is a tensor "
                        f"of images, but got {type(batch).__name__}. Adapt the loader."
                    )
                self._feed(batch[0])
                break
            else:
                raise ValueError(
                    "Calibrating the encoder needs at least one batch of images, but the loader "
                    "gave none. Pass a loader over the training images that can be iterated again."
                )
        finally:
            for handle in watch:
                handle.remove()
        for norm in dict.fromkeys(norms):
            moments = _Moments()
            handle = norm.register_forward_pre_hook(lambda _, args, m=moments: m.merge(args[0]))
            try:
                for batch in loader:
                    self._feed(batch[0])
            finally:
                handle.remove()
            moments.store(norm)

    def _feed(self, images: Tensor) -> None:
        parameter = next(self.parameters(), None)
        self(images if parameter is None else images.to(parameter.device))


class _Moments:
    """Count, mean and sum of squared deviations per channel, merged batch by batch."""

    def __init__(self) -> None:
        self.batches = 0
        self.count = 0
        self.mean: Tensor | None = None  # [C] float64
        self.squares: Tensor | None = None  # [C] float64

    def merge(
        self,
        z: Tensor,  # [N, C, *]
    ) -> None:
        z = z.double().transpose(0, 1).flatten(1)  # [C, n]
        count, mean = z.shape[1], z.mean(1)
        squares = (z - mean[:, None]).square().sum(1)
        self.batches += 1
        if self.mean is None or self.squares is None:
            self.count, self.mean, self.squares = count, mean, squares
            return
        total = self.count + count
        step = mean - self.mean
        self.mean = self.mean + step * (count / total)
        self.squares = self.squares + squares + step.square() * (self.count * count / total)
        self.count = total

    def store(self, norm: nn.Module) -> None:
        if self.mean is None or self.squares is None or self.count < 2:
            raise ValueError(
                f"Calibrating the encoder needs at least two values per channel, but got "
                f"{self.count}. Pass more images."
            )
        assert isinstance(norm, _BatchNorm)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean.copy_(self.mean)
        norm.running_var.copy_(self.squares / (self.count - 1))
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.fill_(self.batches)
