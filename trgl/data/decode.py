"""Image files as pixels; run as a script, a process that reads them for another one.

As a script it needs nothing but Pillow, so that it starts at once and stays small. It is told a
socket, reads requests from it and answers each, until the other end is closed:

    request: length (8 bytes), JSON of a ``Request``
    answer:  0 (1 byte), length (8 bytes), pixels; or 1, length, JSON of the path and the reason
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import socket
import struct
import sys
from collections.abc import Sequence
from typing import Any

from PIL import Image

HEADER = struct.Struct(">Q")
ANSWER = struct.Struct(">BQ")
PIXELS, COMPLAINT = 0, 1


class UnreadableImageError(OSError):
    """A file that is no image, a damaged one, or one of another size; the message names it."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason

    def __reduce__(self) -> tuple[type[UnreadableImageError], tuple[str, str]]:
        return type(self), (self.path, self.reason)  # so that other processes can be told


@dataclasses.dataclass(frozen=True)
class Request:
    """A batch that is asked for.

    Attributes:
        paths: of the files.
        height, width: in pixels; what each image has to have.
        resize: bring images of another size to it; the two must be equal then.
        padding: black pixels around an image before a window of it is cut out.
        windows: for each image (down, right, mirrored): the window's place in the padded image,
            and whether it is mirrored left to right; None takes the images as they are.
    """

    paths: Sequence[str]
    height: int
    width: int
    resize: bool = False
    padding: int = 0
    windows: Sequence[tuple[int, int, bool]] | None = None


def fit(image: Image.Image, side: int) -> Image.Image:
    """Resize the shorter side, bilinear and without aliasing, and crop the middle square.

    This is torchvision's ``Resize(side)`` and ``CenterCrop(side)``.
    """
    width, height = image.size
    short = min(width, height)
    if short != side:
        width, height = side * width // short, side * height // short
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - side) / 2), round((height - side) / 2)
    if (width, height) != (side, side):
        image = image.crop((left, top, left + side, top + side))
    return image


def opened(path: str) -> Image.Image:
    """The image of a file, in colour, 16 bits being brought to 8.

    Raises:
        UnreadableImageError: there is none, a damaged one, or one of 32 bits.
    """
    try:
        with Image.open(path) as image:
            if image.mode.startswith("I;16"):  # Pillow would cut off at 255
                return image.convert("I").point(lambda v: v / 256).convert("L").convert("RGB")
            mode, found = image.mode, image.convert("RGB")
    except Exception as error:  # decoders raise whatever they come upon
        what = "there is no such file"
        if not isinstance(error, FileNotFoundError):
            what = f"no image that can be read ({type(error).__name__}: {error})"
        raise UnreadableImageError(
            path, f"{what}; replace the file, or remove it before a training begins."
        ) from error
    if mode in ("I", "F"):
        raise UnreadableImageError(
            path, "values of 32 bits, whose range is not known; save it with 8 or 16."
        )
    return found


def pixels(request: Request) -> bytes:
    """The pixels of a batch, [N, height, width, 3].

    Raises:
        UnreadableImageError: a damaged file, or an image of another size that is not to be resized.
    """
    found = []
    for place, path in enumerate(request.paths):
        image = opened(path)
        if request.resize:
            image = fit(image, request.height)
        if image.size != (request.width, request.height):
            raise UnreadableImageError(
                path,
                f"{image.height}x{image.width} pixels, where the first image has "
                f"{request.height}x{request.width}; bring all to one size, e.g. by "
                f"image_size={min(request.height, request.width)}.",
            )
        if request.windows is not None:
            down, right, mirrored = request.windows[place]
            top, left = down - request.padding, right - request.padding
            # what a window has outside of the image is black
            image = image.crop((left, top, left + request.width, top + request.height))
            if mirrored:
                image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        found.append(image.tobytes())
    return b"".join(found)


def receive(connection: socket.socket, size: int) -> bytes | None:
    """So many bytes, or None at the end."""
    parts = []
    while size:
        part = connection.recv(min(size, 1 << 20))
        if not part:
            return None
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _serve(connection: socket.socket) -> None:
    while (header := receive(connection, HEADER.size)) is not None:
        message = receive(connection, *HEADER.unpack(header))
        if message is None:
            return
        content: dict[str, Any] = json.loads(message)
        try:
            kind, answer = PIXELS, pixels(Request(**content))
        except UnreadableImageError as error:
            kind, answer = COMPLAINT, json.dumps([error.path, error.reason]).encode()
        connection.sendall(ANSWER.pack(kind, len(answer)))
        connection.sendall(answer)


def _main(handle: int) -> None:
    # a lost connection: nobody waits for an answer any more
    with socket.socket(fileno=handle) as connection, contextlib.suppress(ConnectionError):
        _serve(connection)


if __name__ == "__main__":
    _main(int(sys.argv[1]))
