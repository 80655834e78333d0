"""Distances between two sets of images, from their feature statistics."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch_fidelity.metric_prc import prc_features_to_metric

from diffprune.evaluation.feature_statistics import FeatureStatistics
from diffprune.evaluation.frechet import frechet_distance

KID_SUBSETS = 100
KID_SEED = 2020         # torch-fidelity's, so that its subsets are ours
KERNEL_ROWS = 1024      # of a kernel matrix that are in memory at once


@dataclass(frozen=True)
class Settings:
    """`kid_subset`: images in each of KID's 100 random subsets, at most; `neighbours`: k of precision and recall."""
    kid_subset: int
    neighbours: int


class SetMetric(ABC):
    """A further metric, named in `evaluate.metrics`: it compares two sets of images by their feature statistics.

    `title` is its heading in tables; `arrow` says where better values lie, "↑" or "↓".
    """
    title: ClassVar[str]
    arrow: ClassVar[str]

    @abstractmethod
    def __call__(self, images: FeatureStatistics, reference: FeatureStatistics) -> float | None:
        """The value for `images`; None where the statistics lack what it needs."""


def against(images: FeatureStatistics | None, reference: FeatureStatistics, settings: Settings,
            metrics: Mapping[str, SetMetric] | None = None) -> dict[str, float | None]:
    """Every distance from `images` to `reference`; None where there are no images, or where their features are not known."""
    features = None if images is None else images.features
    further = {name: None if images is None else metric(images, reference) for name, metric in (metrics or {}).items()}
    return {"fid": fid(images, reference),
            "kid": kernel_distance(features, reference.features, settings.kid_subset),
            **precision_recall(features, reference.features, settings.neighbours),
            "inception_score": None if images is None else images.inception_score, **further}


def fid(images: FeatureStatistics | None, reference: FeatureStatistics | None) -> float | None:
    """The Fréchet distance; None where one of the sets is missing."""
    if images is None or reference is None:
        return None
    return frechet_distance(images.gaussian, reference.gaussian)


def kernel_distance(a: np.ndarray | None, b: np.ndarray | None, subset: int) -> float | None:
    """Unbiased squared MMD with the kernel (x·y / D + 1)³, mean over 100 random subsets (Bińkowski et al. 2018).

    Features [N, D] and [M, D]; both subsets have min(`subset`, N, M) images, drawn alike at every call. May be below 0.
    """
    if a is None or b is None:
        return None
    size, rng = min(subset, len(a), len(b)), np.random.RandomState(KID_SEED)
    in_a, in_b = np.zeros((KID_SUBSETS, len(a))), np.zeros((KID_SUBSETS, len(b)))
    for pair in zip(in_a, in_b, strict=True):
        for row in pair:        # in turn, as torch-fidelity draws them
            row[rng.choice(len(row), size, replace=False)] = 1
    a, b = a.astype(np.float64), b.astype(np.float64)
    within = sum(kernel_sums(x, x, chosen, chosen) - chosen @ kernel((x * x).sum(1), x.shape[1])
                 for x, chosen in ((a, in_a), (b, in_b)))
    return float(np.mean(within / (size * (size - 1)) - 2 * kernel_sums(a, b, in_a, in_b) / size ** 2))


def kernel_sums(x: np.ndarray, y: np.ndarray, in_x: np.ndarray, in_y: np.ndarray) -> np.ndarray:
    """The kernel summed over all pairs from `x` [N, D] and `y` [M, D] in each of S subsets, 0 or 1 [S, N] and [S, M]; [S].

    A pair's kernel is computed once for all subsets.
    """
    total = np.zeros(len(in_x))
    for begin in range(0, len(x), KERNEL_ROWS):
        rows = slice(begin, begin + KERNEL_ROWS)
        total += (in_x[:, rows] @ kernel(x[rows] @ y.T, x.shape[1]) * in_y).sum(1)
    return total


def kernel(products: np.ndarray, width: int) -> np.ndarray:
    """(x·y / D + 1)³ of inner products x·y of features `width` wide; numpy's power takes several times as long."""
    once = products / width + 1
    return once * once * once


def precision_recall(a: np.ndarray | None, b: np.ndarray | None, neighbours: int) -> dict[str, float | None]:
    """Fraction of `a` in the manifold of `b` (precision), and of `b` in that of `a` (recall), in [0, 1].

    A manifold is the union of balls around features [N, D] that reach to their k-th neighbour (Kynkäänniemi et al. 2019).
    """
    if a is None or b is None or min(len(a), len(b)) <= neighbours:
        return {"precision": None, "recall": None}
    values = prc_features_to_metric(torch.from_numpy(np.asarray(a, np.float32)), torch.from_numpy(np.asarray(b, np.float32)),
                                   prc_neighborhood=neighbours, prc_batch_size=2000, save_cpu_ram=True, verbose=False)
    return {name: values[name] for name in ("precision", "recall")}
