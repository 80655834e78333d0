"""How alike two models' images of the same noise are, pair by pair."""

from collections.abc import Iterable
from math import log10

import numpy as np
import torch
from pytorch_msssim import ssim
from torch import Tensor

from diffprune.diffusion.pixels import unit


def similarity(pairs: Iterable[tuple[np.ndarray, np.ndarray]], window: int,
               device: torch.device | str = "cpu") -> dict[str, float | None]:
    """SSIM, PSNR and RMSE over batches of pairs (image i, other image i), uint8 [B, H, W, C], taken as [0, 1].

    `ssim`: mean structural similarity over all pairs, 1 for equal ones (Gaussian window of `window` pixels, sigma 1.5).
    `rmse`: root of the squared error's mean over all pixels of all pairs, in [0, 1]. `psnr`: 20 log10(1 / rmse) in dB,
    None where not one pixel differs. All three are None when there are no pairs.
    """
    alike, squared, count, pixels = 0.0, 0.0, 0, 0
    for a, b in pairs:
        x, y = unit(a, device), unit(b, device)
        alike += float(each_ssim(x, y, window).sum())
        squared += float((x - y).double().square().sum())
        count, pixels = count + len(x), pixels + x.numel()
    if not count:
        return {"ssim": None, "psnr": None, "rmse": None}
    rmse = (squared / pixels) ** 0.5
    return {"ssim": alike / count, "psnr": -20 * log10(rmse) if rmse else None, "rmse": rmse}


def ssim_of_each(a: np.ndarray, b: np.ndarray, window: int, device: torch.device | str = "cpu") -> list[float]:
    """The SSIM of every pair (image i of `a`, image i of `b`), uint8 [B, H, W, C], rounded to four places."""
    return [round(value, 4) for value in each_ssim(unit(a, device), unit(b, device), window).tolist()]


def each_ssim(x: Tensor, y: Tensor, window: int) -> Tensor:
    """float64 [B] of images in [0, 1], float32 [B, C, H, W]."""
    return ssim(x, y, data_range=1.0, win_size=window, size_average=False).double()
