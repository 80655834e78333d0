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

    Where all of them lie in sub-folders, the sorted sub-folders are the classes 0, 1, … of the images in them.
    Raises UserError for a missing or empty folder and for a file that is no readable image.
    """
    files = files_in(path)
    pixels = np.stack([read(file, resolution, channels) for file in files])
    return Images(torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), flip, classes(files, Path(path).expanduser()))


def files_in(path: str) -> list[Path]:
    """Every image file below the folder `path`, in path order; UserError where there is none."""
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise UserError(f"dataset.path={path} does not exist: give a folder with images")
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)
    if not files:
        raise UserError(f"dataset.path={path} holds no image ({', '.join(sorted(SUFFIXES))})")
    return files


def classes(files: list[Path], folder: Path) -> torch.Tensor | None:
    """int64 [N]: the place of each file's top-level sub-folder among them; None where a file lies in `folder` itself."""
    tops = [file.relative_to(folder).parts[0] for file in files]
    if any(file.parent == folder for file in files):
        return None
    places = {name: place for place, name in enumerate(sorted(set(tops)))}
    return torch.tensor([places[top] for top in tops])


def read(file: Path, resolution: int, channels: int) -> np.ndarray:
    """One image, resized (bicubic) and centre-cropped, uint8 [resolution, resolution, channels]."""
    try:
        with Image.open(file) as image:
            image = ImageOps.fit(image.convert("L" if channels == 1 else "RGB"), (resolution, resolution))
    except (OSError, UnidentifiedImageError) as error:
        raise UserError(f"{file} is not a readable image: remove it or copy it again") from error
    return np.asarray(image).reshape(resolution, resolution, channels)
