"""Images as bytes and as floats."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor


def to_uint8(x: Tensor) -> Tensor:
    """Images in [-1, 1] as bytes, rounded to nearest, [B, C, H, W] -> [B, H, W, C]."""
    return ((x + 1) * 127.5 + 0.5).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def from_uint8(images: Tensor) -> Tensor:
    """Bytes [B, C, H, W] as float32 images in [-1, 1], the same bits on every device."""
    # By a tensor on the device: CUDA multiplies by the reciprocal of a plain number, which is one bit off now and then.
    divisor = torch.full((), 127.5, device=images.device)
    return images.to(torch.float32, copy=True).div_(divisor).sub_(1)    # in place: fresh memory costs more than the sums


def unit(images: np.ndarray, device: torch.device | str = "cpu") -> Tensor:
    """uint8 [B, H, W, C] as float32 [B, C, H, W] in [0, 1], on `device`."""
    return torch.from_numpy(np.array(images)).to(device).permute(0, 3, 1, 2).float() / 255


def batches(images: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """An array of images [N, H, W, C] in parts of `size`; of a mapped file only one part is in memory at a time."""
    return (images[start:start + size] for start in range(0, len(images), size))
