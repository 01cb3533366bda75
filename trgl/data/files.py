"""Images that stay in their files until a batch asks for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trgl.data import decode
from trgl.data.decode import Request, UnreadableImageError
from trgl.data.readers import Readers

CHUNK = 256  # images that are read at a time


@dataclass(frozen=True)
class ImageFiles:
    """Colour images of one size in as many files.

    It stands where a tensor [N, 3, H, W] could: it has a shape, a length and parts.

    Attributes:
        paths: of the files.
        height, width: of all images, in pixels.
        resize: images of another size are brought to it, see ``trgl.data.decode.fit``.
    """

    paths: tuple[str, ...]
    height: int
    width: int
    resize: bool = False

    @classmethod
    def of(cls, paths: Sequence[str], image_size: int = 0) -> ImageFiles:
        """The files of a data set; only the first is looked into.

        Args:
            paths: at least one.
            image_size: side to bring the images to, in pixels; 0 leaves them as they are: all have
                to be as large as the first then.

        Raises:
            ValueError: the first is no image.
        """
        if image_size:
            return cls(tuple(paths), image_size, image_size, resize=True)
        try:
            first = decode.opened(paths[0])
        except UnreadableImageError as error:
            raise ValueError(str(error)) from error
        return cls(tuple(paths), first.height, first.width)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Images, channels, height and width."""
        return len(self.paths), 3, self.height, self.width

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, chosen: Tensor) -> ImageFiles:  # [N'] int64
        """Some of the images."""
        paths = tuple(self.paths[place] for place in chosen.tolist())
        return ImageFiles(paths, self.height, self.width, self.resize)

    def request(
        self,
        chosen: Tensor,  # [B] int64
        padding: int = 0,
        windows: list[tuple[int, int, bool]] | None = None,
    ) -> Request:
        """What a reader has to be asked for to get some of the images."""
        paths = [self.paths[place] for place in chosen.tolist()]
        return Request(paths, self.height, self.width, self.resize, padding, windows)

    def chunks(self, size: int, readers: Readers) -> Iterator[Tensor]:
        """All images in their order, in tensors of at most so many, uint8 [B, 3, H, W].

        Raises:
            UnreadableImageError: a file that cannot be used.
        """
        places = torch.arange(len(self)).split(size)
        for batch in readers.read(self.request(chosen) for chosen in places):
            yield batch.permute(0, 3, 1, 2)

    def check_readable(self, readers: Readers) -> None:
        """Read every file once.

        Raises:
            UnreadableImageError: a file that cannot be used; the message names it.
        """
        for _ in self.chunks(CHUNK, readers):
            pass


Images = Tensor | ImageFiles
