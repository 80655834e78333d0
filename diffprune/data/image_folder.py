"""Any tree of images on the disk."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from diffprune.data.images import Images
from diffprune.errors import UserError

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp"}


def load(path: str, resolution: int, channels: int, flip: bool, **_: Any) -> Images:
    """Every image below `path`, in path order, as [N, channels, resolution, resolution].

    Raises UserError for a missing or empty folder and for a file that is no readable image.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise UserError(f"dataset.path={path} does not exist: give a folder with images")
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)
    if not files:
        raise UserError(f"dataset.path={path} holds no image ({', '.join(sorted(SUFFIXES))})")
    pixels = np.stack([read(file, resolution, channels) for file in files])
    return Images(torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), flip)


def read(file: Path, resolution: int, channels: int) -> np.ndarray:
    """One image, resized (bicubic) and centre-cropped, uint8 [resolution, resolution, channels]."""
    try:
        with Image.open(file) as image:
            image = ImageOps.fit(image.convert("L" if channels == 1 else "RGB"), (resolution, resolution))
    except (OSError, UnidentifiedImageError) as error:
        raise UserError(f"{file} is not a readable image: remove it or copy it again") from error
    return np.asarray(image).reshape(resolution, resolution, channels)
