"""How a decoded image of any size becomes an image of the data set."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from diffprune.data.loading.decoding import BadImage

FACE = (25, 57, 153, 185)       # left, upper, right, lower: 128 pixels centred at (x 89, y 121)
ALIGNED = (178, 218)            # width and height of CelebA's aligned photographs


@dataclass(frozen=True)
class Transform(ABC):
    """Makes uint8 [resolution, resolution, channels] of a decoded image, or raises BadImage; its repr is in cache keys."""
    resolution: int
    channels: int = 3

    def __call__(self, image: Image.Image) -> np.ndarray:
        return np.asarray(self.sized(image)).reshape(self.resolution, self.resolution, self.channels)

    @abstractmethod
    def sized(self, image: Image.Image) -> Image.Image:
        """The image with `resolution` pixels on each side."""


class Fit(Transform):
    """Resized (bicubic) and centre-cropped in one step."""

    def sized(self, image: Image.Image) -> Image.Image:
        return ImageOps.fit(image, (self.resolution, self.resolution))


class ShorterSide(Transform):
    """Shorter side resized to the resolution (bilinear), then centre-cropped: torchvision's Resize and CenterCrop."""

    def sized(self, image: Image.Image) -> Image.Image:
        size, short = self.resolution, min(image.size)
        if short != size:
            width, height = (int(size * side / short) for side in image.size)
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        left, upper = round((image.width - size) / 2), round((image.height - size) / 2)
        return image.crop((left, upper, left + size, upper + size))


class Face(Transform):
    """The face in one of CelebA's aligned photographs: rows 57 to 184, columns 25 to 152, resized (bilinear)."""

    def sized(self, image: Image.Image) -> Image.Image:
        if image.size != ALIGNED:
            raise BadImage(f"is {image.width}x{image.height} pixels, CelebA's aligned images are "
                           f"{ALIGNED[0]}x{ALIGNED[1]}: give the folder img_align_celeba")
        return image.crop(FACE).resize((self.resolution, self.resolution), Image.Resampling.BILINEAR)


class Exact(Transform):
    """Images that already have the data set's size."""

    def sized(self, image: Image.Image) -> Image.Image:
        if image.size != (self.resolution, self.resolution):
            raise BadImage(f"is {image.width}x{image.height} pixels, not {self.resolution}x{self.resolution}: "
                           "it does not belong to this data set, remove it")
        return image
