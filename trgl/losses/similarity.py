"""PredSim: features of a class are to be similar."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..heads import Shape
from .weight import check_weight


def similarity_matrix(
    x: Tensor,  # [N, C], or maps [N, C, *]
) -> Tensor:  # [N, N]
    """Adjusted cosine similarities of the samples of a batch.

    s_ij = ⟨z_i − mean(z_i), z_j − mean(z_j)⟩ / (‖z_i − mean(z_i)‖ ‖z_j − mean(z_j)‖)

    z_i is row i of x; of maps with more than 3 channels and more than one position, the standard
    deviation over positions of each channel. A constant z_i gives zeros.

    Args:
        x: floating-point; float16 and bfloat16 are computed in float32.

    Source: Nøkland & Eidnes, "Training Neural Networks with Local Error Signals", ICML 2019,
        section 3.1.
    """
    z = x.to(torch.promote_types(x.dtype, torch.float32))
    if z.dim() > 2:
        z = z.flatten(2)
        z = z.std(2) if z.shape[1] > 3 and z.shape[2] > 1 else z.flatten(1)
    z = F.normalize(z - z.mean(1, keepdim=True), dim=1, eps=1e-8)
    return z @ z.T


class Similarity(nn.Module):
    """PredSim: samples of a class are to be similar, those of other classes not.

    L = (1 − β) criterion + β mean_ij (S(P(features)) − S(one-hot labels))²_ij

    Args:
        project: P, which takes the channels as dimension 1, or as the last one where it is an
            nn.Linear.
        num_classes: of the labels.
        weight: β, from 0 to 1.
        channel_dim: dimension of C in the features: 1 for [N, C, *], −1 for [N, *, C].
    """

    def __init__(
        self, project: nn.Module, num_classes: int, weight: float, channel_dim: int = 1
    ) -> None:
        super().__init__()
        self.project = project
        self.num_classes = num_classes
        self.weight = weight
        self.channel_dim = channel_dim

    def forward(
        self,
        criterion: Tensor,  # []
        features: Tensor,  # [N, C, *] or [N, *, C]
        images: Tensor,  # [N, *input_shape]
        labels: Tensor,  # [N], or [N, classes] for soft ones
    ) -> Tensor:  # []
        """The loss of a batch."""
        place = -1 if isinstance(self.project, nn.Linear) else 1
        projected = self.project(features.movedim(self.channel_dim, place)).movedim(place, 1)
        one_hot = F.one_hot(labels, self.num_classes) if labels.dim() == 1 else labels
        with torch.autocast(features.device.type, enabled=False):
            found = similarity_matrix(projected)
            wanted = similarity_matrix(one_hot.to(found.dtype))
            distance = F.mse_loss(found, wanted)
        return (1 - self.weight) * criterion + self.weight * distance


def similarity(
    shape: Shape,
    num_classes: int,
    input_shape: Shape,
    *,
    weight: float = 0.99,
    channels_last: bool | None = None,
) -> nn.Module:
    """PredSim's similarity matching: see `Similarity`.

    P is a convolution 3×3 without bias that keeps C, or a linear layer for rows (C,) and tokens
    (T, C).

    Args:
        shape: (C, H, W), (H, W, C) with channels_last, tokens (T, C), or (C,).
        num_classes: of the labels.
        input_shape: of one image; not needed.
        weight: β, from 0 to 1.
        channels_last: the last dimension holds the channels; None: exactly for tokens and rows.

    Raises:
        ValueError: β out of its range, or features of more than three dimensions.

    Source: Nøkland & Eidnes, "Training Neural Networks with Local Error Signals", ICML 2019.
    """
    check_weight("similarity", weight, 1)
    last = len(shape) < 3 if channels_last is None else channels_last
    if len(shape) > 3:
        raise ValueError(
            f"Local loss 'similarity' needs features (C, H, W), (T, C) or (C,), but they are "
            f"{shape}. Write a local loss of your own, or leave it out."
        )
    channels = shape[-1] if last else shape[0]
    if len(shape) < 3:
        project: nn.Module = nn.Linear(channels, channels, bias=False)
    else:
        project = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
    return Similarity(project, num_classes, weight, -1 if last else 1)
