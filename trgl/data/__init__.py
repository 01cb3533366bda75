"""Image data: where it comes from, which of it is used, and batches of it.

``load`` reads a data set and ``fetch`` gets a published one, ``subset`` and ``hold_out`` draw
stratified parts of it, ``Batches`` makes normalized, augmented batches of them whose order depends
on a seed and the epoch alone. Images of one file each stay in ``ImageFiles`` and are read by the
processes of ``Readers``.
"""

from trgl.data.batches import Batches
from trgl.data.decode import UnreadableImageError
from trgl.data.fetching import FetchError, fetch
from trgl.data.files import ImageFiles
from trgl.data.images import ImageData
from trgl.data.published import FETCHABLE
from trgl.data.readers import Readers
from trgl.data.sampling import hold_out, subset
from trgl.data.sources import DATASETS, load
from trgl.data.statistics import channel_statistics

__all__ = [
    "DATASETS",
    "FETCHABLE",
    "Batches",
    "FetchError",
    "ImageData",
    "ImageFiles",
    "Readers",
    "UnreadableImageError",
    "channel_statistics",
    "fetch",
    "hold_out",
    "load",
    "subset",
]
