"""From the bytes of an image file to a decoded image, grey or RGB."""

import io
import struct
import zlib

import numpy as np
from PIL import ExifTags, Image, ImageOps

# What Pillow raises for files that are damaged, cut short, or larger than any photograph.
DAMAGED = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error, Image.DecompressionBombError)


class BadImage(Exception):
    """One image that cannot be used; the message continues the image's name."""


def decoded(data: bytes, channels: int) -> Image.Image:
    """The image in `data` as viewers show it, grey for 1 channel, else RGB: upright, transparent pixels white.

    Of several frames it is the first. Raises BadImage where it cannot be decoded, or its levels have no known range.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            return converted(upright(image), "L" if channels == 1 else "RGB")
    except DAMAGED as error:
        if isinstance(error, Image.DecompressionBombError) or "too large" in str(error):
            raise BadImage(f"is larger than Pillow's limit ({error}): save it smaller, and without its text") from error
        raise BadImage("is not a readable image: remove it or copy it again") from error


def upright(image: Image.Image) -> Image.Image:
    """`image`, turned as its EXIF orientation says."""
    try:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
    except DAMAGED:     # damaged EXIF data turn nothing
        return image
    return ImageOps.exif_transpose(image) if turned else image


def converted(image: Image.Image, mode: str) -> Image.Image:
    """`image` in `mode` (L or RGB) from any other: 16-bit grey is scaled, transparent pixels are laid on white."""
    if image.mode == "F" or (image.mode == "I" and image.format == "TIFF"):
        raise BadImage("has numbers of 32 bits, whose black and white are unknown: save it with 8 or 16 bits")
    if image.mode.startswith("I"):      # Pillow would cut 16-bit levels off at 255
        levels = np.asarray(image).astype(np.int64).clip(0, 65535)
        image = Image.fromarray(((levels + 128) // 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == mode else image.convert(mode)
