"""How a picture of any size becomes an image of the data set."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from PIL import Image, ImageOps

from diffprune.data.loading.decoding import BadImage

FACE = (25, 57, 153, 185)       # left, upper, right, lower: 128 pixels centred at (x 89, y 121)
ALIGNED = (178, 218)            # width and height of CelebA's aligned photographs


class Transform(Protocol):
    """A picture as uint8 [resolution, resolution, channels], or BadImage; its repr is part of cache keys."""
    resolution: int
    channels: int

    def __call__(self, image: Image.Image) -> np.ndarray: ...


@dataclass(frozen=True)
class Fit:
    """Resized (bicubic) and centre-cropped in one step."""
    resolution: int
    channels: int = 3

    def __call__(self, image: Image.Image) -> np.ndarray:
        fitted = ImageOps.fit(image, (self.resolution, self.resolution))
        return np.asarray(fitted).reshape(self.resolution, self.resolution, self.channels)


@dataclass(frozen=True)
class ShorterSide:
    """Shorter side resized to the resolution (bilinear), then centre-cropped: torchvision's Resize and CenterCrop."""
    resolution: int
    channels: int = 3

    def __call__(self, image: Image.Image) -> np.ndarray:
        size, short = self.resolution, min(image.size)
        if short != size:
            width, height = (int(size * side / short) for side in image.size)
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        left, upper = round((image.width - size) / 2), round((image.height - size) / 2)
        cropped = image.crop((left, upper, left + size, upper + size))
        return np.asarray(cropped).reshape(size, size, self.channels)


@dataclass(frozen=True)
class Face:
    """The face in one of CelebA's aligned photographs: rows 57 to 184, columns 25 to 152, resized (bilinear)."""
    resolution: int
    channels: int = 3

    def __call__(self, image: Image.Image) -> np.ndarray:
        if image.size != ALIGNED:
            raise BadImage(f"is {image.width}x{image.height} pixels, CelebA's aligned images are "
                           f"{ALIGNED[0]}x{ALIGNED[1]}: give the folder img_align_celeba")
        cropped = image.crop(FACE).resize((self.resolution, self.resolution), Image.Resampling.BILINEAR)
        return np.asarray(cropped).reshape(self.resolution, self.resolution, self.channels)


@dataclass(frozen=True)
class Exact:
    """Images that have their final size already."""
    resolution: int
    channels: int = 3

    def __call__(self, image: Image.Image) -> np.ndarray:
        if image.size != (self.resolution, self.resolution):
            raise BadImage(f"is {image.width}x{image.height} pixels, not {self.resolution}x{self.resolution}: "
                           "it is none of this data set, remove it")
        return np.asarray(image).reshape(self.resolution, self.resolution, self.channels)
