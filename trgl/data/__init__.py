"""Image data: the embedded digits, MNIST-like idx files, CIFAR and plain ``.npz`` archives.

``load`` reads a data set, ``subset`` and ``hold_out`` draw stratified parts of it, ``Batches``
makes normalized, augmented batches of them whose order depends on a seed and the epoch alone.
"""

from trgl.data.batches import Batches, channel_statistics
from trgl.data.images import ImageData
from trgl.data.sampling import hold_out, subset
from trgl.data.sources import DATASETS, load

__all__ = [
    "DATASETS",
    "Batches",
    "ImageData",
    "channel_statistics",
    "hold_out",
    "load",
    "subset",
]
