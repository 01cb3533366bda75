"""Local losses: what a module minimizes in place of its criterion, with layers of their own.

A local loss is an `nn.Module` with

    forward(criterion, features, images, labels) -> loss        a 0-dim tensor

where criterion is that of the module's logits, and images are what the network was given. It is
built as a head is, by a callable `(shape, num_classes, input_shape) -> nn.Module`, where `shape` is
that of the features without the batch. The names in `LOSSES` stand for the callables of this
package; bind an option with `functools.partial(trgl.losses.similarity, weight=0.9)`.
"""

from .build import LOSSES, Loss, LossBuilder, build, each
from .reconstruction import Reconstruction, reconstruction
from .similarity import Similarity, similarity, similarity_matrix

__all__ = [
    "LOSSES",
    "Loss",
    "LossBuilder",
    "Reconstruction",
    "Similarity",
    "build",
    "each",
    "reconstruction",
    "similarity",
    "similarity_matrix",
]
