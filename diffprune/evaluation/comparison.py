"""The scores of one set of drawn images: beside the data, and beside the dense model's images of the same noise."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from diffprune.diffusion.pixels import batches
from diffprune.evaluation.feature_statistics import FeatureStatistics
from diffprune.evaluation.pair_metrics import similarity
from diffprune.evaluation.set_metrics import SetMetric, Settings, against, fid


@dataclass(frozen=True)
class ImagesSeen:
    """Drawn `images` uint8 [N, H, W, C], image i from the noise of index i, and their feature `statistics`."""
    images: np.ndarray
    statistics: FeatureStatistics


def scores_of_set(own: ImagesSeen | None, dense: ImagesSeen | None, reference: FeatureStatistics, settings: Settings,
                  window: int, batch: int, device: torch.device | str = "cpu",
                  further: Mapping[str, SetMetric] | None = None) -> dict[str, float | None]:
    """Every distance from a set to the `reference`, and how near it is to the `dense` model's images: the Fréchet distance
    `fid_to_dense` on the same features, and the similarity of image i to image i (`window` of SSIM in pixels, `batch` pairs
    at once). None for a set that was not drawn."""
    pairs = zip(batches(own.images, batch), batches(dense.images, batch), strict=True) if own and dense else ()
    seen, seen_dense = (None if one is None else one.statistics for one in (own, dense))
    return against(seen, reference, settings, further) | {"fid_to_dense": fid(seen, seen_dense)} | similarity(
        pairs, window, device)
