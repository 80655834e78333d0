"""Distances between two sets of images, from their portraits."""

from dataclasses import dataclass

import numpy as np
import torch
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from diffprune.frechet import frechet_distance
from diffprune.portrait import Portrait

KID_SUBSETS = 100


@dataclass(frozen=True)
class Settings:
    """`kid_subset`: images in each of KID's 100 random subsets, at most; `neighbours`: k of precision and recall."""
    kid_subset: int
    neighbours: int


def against(images: Portrait | None, reference: Portrait, settings: Settings) -> dict[str, float | None]:
    """Every distance from `images` to `reference`; None where there are no images, or where their features are not known."""
    features = None if images is None else images.features
    return {"fid": fid(images, reference),
            "kid": kernel_distance(features, reference.features, settings.kid_subset),
            **precision_recall(features, reference.features, settings.neighbours),
            "inception_score": None if images is None else images.inception_score}


def fid(images: Portrait | None, reference: Portrait | None) -> float | None:
    """The Fréchet distance; None where one of the sets is not there."""
    if images is None or reference is None:
        return None
    return frechet_distance(images.statistics, reference.statistics)


def kernel_distance(a: np.ndarray | None, b: np.ndarray | None, subset: int) -> float | None:
    """Unbiased squared MMD with the kernel (x·y / D + 1)³, mean over 100 random subsets (Bińkowski et al. 2018).

    Features [N, D] and [M, D]; both subsets have min(`subset`, N, M) images, drawn alike at every call. May be below 0.
    """
    if a is None or b is None:
        return None
    found = kid_features_to_metric(
        *(torch.from_numpy(np.asarray(features, np.float64)) for features in (a, b)), kid_subsets=KID_SUBSETS,
        kid_subset_size=min(subset, len(a), len(b)), kid_kernel="poly", kid_kernel_poly_degree=3,
        kid_kernel_poly_gamma=None, kid_kernel_poly_coef0=1, rng_seed=2020, verbose=False)
    return found[KEY_METRIC_KID_MEAN]


def precision_recall(a: np.ndarray | None, b: np.ndarray | None, neighbours: int) -> dict[str, float | None]:
    """Shares of `a` inside the manifold of `b` (precision) and the other way round (recall), in [0, 1].

    A manifold is the union of balls around features [N, D] that reach to their k-th neighbour (Kynkäänniemi et al. 2019).
    """
    if a is None or b is None or min(len(a), len(b)) <= neighbours:
        return {"precision": None, "recall": None}
    found = prc_features_to_metric(torch.from_numpy(np.asarray(a, np.float32)), torch.from_numpy(np.asarray(b, np.float32)),
                                   prc_neighborhood=neighbours, prc_batch_size=2000, save_cpu_ram=True, verbose=False)
    return {name: found[name] for name in ("precision", "recall")}
