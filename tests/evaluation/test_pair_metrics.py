"""How alike pairs of images are: other implementations, closed forms."""

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view
from pytorch_msssim import ssim
from torchmetrics.image import PeakSignalNoiseRatio

from diffprune.diffusion.pixels import batches
from diffprune.evaluation.pair_metrics import similarity, ssim_of_each


def pictures(count: int, seed: int = 0, size: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def paired(a: np.ndarray, b: np.ndarray, batch: int, window: int = 11) -> dict[str, float | None]:
    return similarity(zip(batches(a, batch), batches(b, batch), strict=True), window)


def unit(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


def test_equal_images_are_alike_and_have_no_noise() -> None:
    found = paired(pictures(5), pictures(5), 2)
    assert found == {"ssim": pytest.approx(1, abs=1e-6), "psnr": None, "rmse": 0}


def test_ssim_is_pytorch_msssims_mean_over_pairs_in_any_batches() -> None:
    a, b = pictures(7), pictures(7, seed=1)
    expected = float(ssim(unit(a), unit(b), data_range=1, size_average=True))
    assert paired(a, b, 7)["ssim"] == pytest.approx(expected, abs=1e-6)
    assert paired(a, b, 3)["ssim"] == pytest.approx(expected, abs=1e-6)


def test_the_mean_of_each_pairs_ssim_is_the_ssim() -> None:
    a, b = pictures(7), pictures(7, seed=1)
    each = ssim_of_each(a, b, 11)
    assert len(each) == 7
    assert len(set(each)) > 1
    assert sum(each) / 7 == pytest.approx(paired(a, b, 3)["ssim"], abs=1e-4)


def by_definition(x: np.ndarray, y: np.ndarray) -> float:
    """Wang et al. 2004, eq. 13, for one channel [H, W] in [0, 1]: windows of 11x11 pixels that lie inside, sigma 1.5."""
    line = np.exp(-(np.arange(11) - 5.0) ** 2 / (2 * 1.5**2))
    weights = np.outer(line, line) / line.sum() ** 2
    values = []
    for a, b in zip(*(sliding_window_view(plane, (11, 11)).reshape(-1, 11, 11) for plane in (x, y)), strict=True):
        mu_a, mu_b = (weights * a).sum(), (weights * b).sum()
        var_a, var_b = (weights * a**2).sum() - mu_a**2, (weights * b**2).sum() - mu_b**2
        cov = (weights * a * b).sum() - mu_a * mu_b
        values.append((2 * mu_a * mu_b + 1e-4) * (2 * cov + 9e-4)
                      / ((mu_a**2 + mu_b**2 + 1e-4) * (var_a + var_b + 9e-4)))
    return float(np.mean(values))


def test_ssim_is_its_definition_window_by_window() -> None:
    a = pictures(3)
    b = (a * 0.7 + pictures(3, seed=1) * 0.3).astype(np.uint8)
    expected = np.mean([by_definition(a[i, :, :, c] / 255, b[i, :, :, c] / 255) for i in range(3) for c in range(3)])
    assert paired(a, b, 2)["ssim"] == pytest.approx(expected, abs=1e-5)


def test_psnr_is_torchmetrics_in_any_batches() -> None:
    a, b = pictures(7), pictures(7, seed=1)
    expected = float(PeakSignalNoiseRatio(data_range=1.0)(unit(a), unit(b)))
    assert paired(a, b, 3)["psnr"] == pytest.approx(expected, rel=1e-5)


def test_a_constant_difference_is_the_error() -> None:
    a = np.full((3, 16, 16, 3), 100, np.uint8)
    found = paired(a, a + 51, 2)
    assert found["rmse"] == pytest.approx(0.2, rel=1e-6)
    assert found["psnr"] == pytest.approx(-20 * np.log10(0.2), rel=1e-6)


def test_pairs_are_by_index() -> None:
    assert paired(pictures(4), pictures(4)[::-1].copy(), 4)["ssim"] < 0.5


def test_without_pairs_there_is_nothing_to_say() -> None:
    assert similarity([], 11) == {"ssim": None, "psnr": None, "rmse": None}
