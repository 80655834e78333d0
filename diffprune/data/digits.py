"""1 797 real handwritten digits (8x8, grey) that come inside scikit-learn."""

from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits

from diffprune.data.loading.images import Images
from diffprune.runtime.errors import UserError


def load(path: str | None, flip: bool, resolution: int = 8, **_: Any) -> Images:
    """All digits as [1797, 1, 8, 8]; the 17 grey levels 0 … 16 become 0 … 255."""
    if path is not None:
        raise UserError(f"dataset.path={path} has no use with dataset=digits, which is part of scikit-learn: leave it out")
    if resolution != 8:
        raise UserError(f"dataset.resolution={resolution} does not fit dataset=digits, whose images are 8x8: leave it out")
    levels = load_digits().images
    return Images(torch.from_numpy(np.rint(levels * (255 / 16)).astype(np.uint8))[:, None], flip)


def labels() -> torch.Tensor:
    """The digit that each image shows, int64 [1797]."""
    return torch.from_numpy(load_digits().target.astype(np.int64))
