"""A frozen encoder's weights from an autoencoder on the training images."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn

from .encoder import Batches, FrozenEncoder
from .sequence import children, is_sequential

Layers = list[nn.Module]


def pretrain(
    encoder: FrozenEncoder,
    loader: Batches,  # of ([N, C, H, W], …)
    epochs: int,
    learning_rate: float = 0.001,
    seed: int | None = None,
) -> list[float]:
    """Trains the encoder as the first half of an autoencoder, in place, and freezes it again.

    loss = mean((decoder(encoder(x)) − x)²), by Adam

    The decoder mirrors the encoder: for every convolution a transposed one of the same kernel and
    stride, with BN and ReLU between two of them; it is thrown away. Afterwards the statistics of
    the encoder's batch normalizations are running averages: call `encoder.calibrate` for exact
    ones.

    Args:
        encoder: convolutions, each followed by a BN and an activation or not.
        loader: re-iterable; its epochs 0 to `epochs` − 1 are gone through where it has `set_epoch`,
            and afterwards it stands where it stood.
        epochs: ≥ 1.
        learning_rate: > 0.
        seed: of the decoder's weights; None takes PyTorch's global generator.

    Returns:
        The mean loss of each epoch.

    Raises:
        ValueError: an encoder of other layers, a loader that is empty or can be iterated only
            once, a loss that is not finite, or a number out of range.

    Source: block-wise training (Karkar et al., AAAI workshop 2022) and TRGL (NeurIPS 2023), table
    13: "fixed encoder"; the authors' experiments take it from an autoencoder.
    """
    if not isinstance(epochs, int) or epochs < 1 or not 0 < learning_rate < math.inf:
        raise ValueError(
            f"Pretraining needs at least one epoch and a learning rate above 0, but got epochs="
            f"{epochs!r} and learning_rate={learning_rate!r}. Use 50 and 0.001."
        )
    if not isinstance(loader, Iterable) or isinstance(loader, Iterator):
        raise ValueError(
            f"Pretraining iterates over the images once per epoch, so that it needs a loader that "
            f"can be iterated again, but got {type(loader).__name__}. Pass a DataLoader, "
            f"trgl.data.Batches or a list."
        )
    layers = [leaf for unit in encoder.units for leaf in _leaves(unit)]
    convolutions = _convolutions(layers)
    device = convolutions[0].weight.device
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.default_generator.manual_seed(seed)
        decoder = Decoder(convolutions).to(device)
    trained = nn.Sequential(*layers)
    start, set_epoch = getattr(loader, "epoch", 0), getattr(loader, "set_epoch", None)
    try:
        for layer in trained:
            nn.Module.train(layer)  # the encoder's own `train` keeps it in evaluation mode
        trained.requires_grad_(True)
        optimizer = torch.optim.Adam([*trained.parameters(), *decoder.parameters()], learning_rate)
        losses = []
        for epoch in range(epochs):
            if set_epoch is not None:
                set_epoch(epoch)
            losses.append(_epoch(trained, decoder, optimizer, loader, device))
            if not math.isfinite(losses[-1]):
                raise ValueError(
                    f"The autoencoder diverged: its mean squared error of epoch {epoch + 1} is "
                    f"{losses[-1]}. Lower the learning rate of {learning_rate:g}."
                )
    finally:
        if set_epoch is not None:
            set_epoch(start)
        trained.requires_grad_(False)
        for parameter in trained.parameters():
            parameter.grad = None
        encoder.eval()
    return losses


class Decoder(nn.Module):
    """Transposed convolutions that undo the shapes of convolutions, last first.

    x_{n−1} = relu(bn(convᵀ(x_n))), and a bare convᵀ at the end

    Args:
        convolutions: of the encoder, first to last.
    """

    def __init__(self, convolutions: list[nn.Conv2d]) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        self.norms = nn.ModuleList()
        for conv in reversed(convolutions):
            self.layers.append(
                nn.ConvTranspose2d(
                    conv.out_channels,
                    conv.in_channels,
                    conv.kernel_size,  # type: ignore[arg-type]
                    conv.stride,  # type: ignore[arg-type]
                    conv.padding,  # type: ignore[arg-type]
                    dilation=conv.dilation,  # type: ignore[arg-type]
                )
            )
        self.norms.extend(nn.BatchNorm2d(conv.in_channels) for conv in reversed(convolutions[1:]))

    def forward(
        self,
        x: Tensor,  # [N, C', H', W']
        sizes: list[list[int]],
    ) -> Tensor:  # [N, C, H, W]
        """The image; `sizes` are (H, W) of what every convolution took, first to last."""
        for number, (layer, size) in enumerate(zip(self.layers, reversed(sizes), strict=True)):
            x = layer(x, output_size=size)
            if number < len(self.norms):
                x = torch.relu(self.norms[number](x))
        return x


def _epoch(
    encoder: nn.Sequential,
    decoder: Decoder,
    optimizer: torch.optim.Optimizer,
    loader: Batches,
    device: torch.device,
) -> float:
    total, count = torch.zeros((), device=device), 0
    for batch in loader:
        images = batch[0].to(device)
        x, sizes = images, []
        for layer in encoder:
            if isinstance(layer, nn.Conv2d):
                sizes.append(list(x.shape[-2:]))
            x = layer(x)
        loss = nn.functional.mse_loss(decoder(x, sizes), images)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.detach() * len(images)
        count += len(images)
    if not count:
        raise ValueError(
            "Pretraining needs at least one batch of images in every epoch, but the loader gave "
            "none. Pass a loader over the training images that can be iterated again."
        )
    return float(total) / count


def _leaves(unit: nn.Module) -> Layers:
    if is_sequential(unit):
        return [leaf for _, child in children(unit) for leaf in _leaves(child)]
    return [unit]


def _convolutions(layers: Layers) -> list[nn.Conv2d]:
    found = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
    between = (nn.BatchNorm2d, nn.ReLU, nn.Identity)
    odd = next((one for one in layers if not isinstance(one, (nn.Conv2d, *between))), None)
    fits = all(a.out_channels == b.in_channels and b.groups == 1 for a, b in pairwise(found))
    if odd is not None or not found or not fits or found[0].groups > 1:
        raise ValueError(
            f"An encoder that an autoencoder pretrains consists of convolutions, batch "
            f"normalizations and ReLUs in a row, but got "
            f"{type(odd).__name__ if odd is not None else [type(one).__name__ for one in layers]}. "
            f"Pretrain it yourself, and load its weights."
        )
    if any(isinstance(conv.padding, str) for conv in found):
        raise ValueError(
            "The convolutions of an encoder that an autoencoder pretrains need a padding in "
            "pixels, but got padding='same' or 'valid'. Give a number."
        )
    return found
