"""CelebA's training images: faces cut out of the aligned photographs."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from diffprune.data.image_folder import files_in
from diffprune.data.images import Images
from diffprune.errors import UserError

TRAINING = 162_770                  # the first of the 202 599 images, by name, are the training split
FACE = (25, 57, 153, 185)           # left, upper, right, lower: 128 pixels centred at (x 89, y 121)


def load(path: str, resolution: int, flip: bool, **_: Any) -> Images:
    """The first 162 770 images below `path`, in path order, as [N, 3, resolution, resolution].

    Raises UserError for a missing or empty folder and for a file that is no aligned photograph of CelebA.
    """
    pixels = np.stack([face(file, resolution) for file in files_in(path)[:TRAINING]])
    return Images(torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), flip)


def face(file: Path, resolution: int) -> np.ndarray:
    """The face in one aligned photograph, resized (bilinear), uint8 [resolution, resolution, 3]."""
    try:
        with Image.open(file) as image:
            if image.size != (178, 218):
                raise UserError(f"{file} is {image.width}x{image.height} pixels, CelebA's aligned images are 178x218: "
                                "give the folder img_align_celeba")
            cropped = image.convert("RGB").crop(FACE).resize((resolution, resolution), Image.Resampling.BILINEAR)
    except (OSError, UnidentifiedImageError) as error:
        raise UserError(f"{file} is not a readable image: remove it or copy it again") from error
    return np.asarray(cropped)
