"""From the bytes of an image file to a decoded image, grey or RGB."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

# What Pillow raises for files that are damaged, cut short, or larger than any photograph.
DAMAGED = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error, Image.DecompressionBombError)


class BadImage(Exception):
    """One image that cannot be used; the message continues the image's name."""


def decoded(data: bytes, channels: int) -> Image.Image:
    """The image in `data`, grey for 1 channel, else RGB; raises BadImage where it cannot be decoded."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            return converted(image, "L" if channels == 1 else "RGB")
    except DAMAGED as error:
        raise BadImage("is not a readable image: remove it or copy it again") from error


def converted(image: Image.Image, mode: str) -> Image.Image:
    """`image` in `mode` (L or RGB) from any other: 16-bit grey is scaled, transparency is dropped."""
    if image.mode.startswith("I"):      # Pillow would cut 16-bit levels off at 255
        levels = np.asarray(image).astype(np.int64).clip(0, 65535)
        image = Image.fromarray(((levels + 128) // 257).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image if image.mode == mode else image.convert(mode)
