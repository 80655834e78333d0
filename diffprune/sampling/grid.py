"""Images side by side in one file."""

from pathlib import Path

import numpy as np
from PIL import Image

from diffprune.runtime.files import atomic_file

GAP = 128      # grey: an image's black or white border stays visible


def grid(rows: list[np.ndarray], path: Path, gap: int = 1) -> None:
    """One PNG: each of `rows` (uint8 [n, H, W, C]) a row of images, `gap` grey pixels between them."""
    def line(images: np.ndarray) -> np.ndarray:
        padded = np.pad(images, ((0, 0), (gap, 0), (gap, 0), (0, 0)), constant_values=GAP)
        return np.concatenate(list(padded), axis=1)
    joined = np.pad(np.concatenate([line(row) for row in rows]), ((0, gap), (0, gap), (0, 0)), constant_values=GAP)
    with atomic_file(path) as partial:
        Image.fromarray(joined.squeeze(-1) if joined.shape[-1] == 1 else joined).save(partial, format="PNG")
