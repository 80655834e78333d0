"""Scores of image sets: closed forms, and agreement with other implementations on the same features."""

import numpy as np
import pytest
import torch
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric
from torchmetrics.image.inception import InceptionScore as TheirScore
from torchmetrics.image.kid import poly_mmd

from diffprune.evaluation.feature_statistics import FeatureStatistics
from diffprune.evaluation.frechet import Gaussian
from diffprune.evaluation.inception_score import InceptionScore
from diffprune.evaluation.set_metrics import Settings, against, kernel_distance, precision_recall


def features(count: int, shift: float = 0.0, width: int = 12, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=(count, width)) + shift).astype(np.float32)


def test_the_kernel_distance_is_torchmetrics_over_the_whole_sets() -> None:
    a, b = features(60), features(60, 0.3, seed=1)
    theirs = poly_mmd(torch.from_numpy(a).double(), torch.from_numpy(b).double(), 3, None, 1.0)
    assert kernel_distance(a, b, 60) == pytest.approx(float(theirs), rel=1e-6)


@pytest.mark.parametrize("rows", [7, 1024])
@pytest.mark.parametrize("subset", [20, 1000])
def test_the_kernel_distance_is_torch_fidelitys_over_the_same_subsets(subset: int, rows: int,
                                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffprune.evaluation.set_metrics.KERNEL_ROWS", rows)
    a, b = features(60), features(90, 0.3, seed=1)
    theirs = kid_features_to_metric(
        torch.from_numpy(a).double(), torch.from_numpy(b).double(), kid_subsets=100, kid_subset_size=min(subset, 60),
        kid_kernel="poly", kid_kernel_poly_degree=3, kid_kernel_poly_gamma=None, kid_kernel_poly_coef0=1, rng_seed=2020,
        verbose=False)
    assert kernel_distance(a, b, subset) == pytest.approx(theirs[KEY_METRIC_KID_MEAN], rel=1e-12)


def test_the_kernel_distance_is_about_zero_within_one_distribution_and_grows_with_the_shift() -> None:
    near, far = (kernel_distance(features(500), features(500, shift, seed=1), 100) for shift in (0.0, 0.5))
    assert abs(near) < 0.02
    assert far > 0.5


def test_subsets_are_no_larger_than_the_smaller_set_and_always_the_same() -> None:
    a, b = features(30), features(70, 0.2, seed=1)
    assert kernel_distance(a, b, 1000) == kernel_distance(a, b, 1000)


def inside(points: np.ndarray, manifold: np.ndarray, k: int) -> float:
    """The definition, point by point: is it as near to some member as that member's k-th neighbour?"""
    radii = [sorted(np.linalg.norm(manifold - own, axis=1))[k] for own in manifold]
    return float(np.mean([any(np.linalg.norm(point - own) <= radius for own, radius in zip(manifold, radii, strict=True))
                          for point in points]))


def test_precision_and_recall_are_their_definition() -> None:
    a, b = features(40, width=3), features(50, 0.8, width=3, seed=1)
    found = precision_recall(a, b, 3)
    assert found == {"precision": pytest.approx(inside(a, b, 3)), "recall": pytest.approx(inside(b, a, 3))}
    assert 0 < found["precision"] < 1


@pytest.mark.parametrize("k", [1, 3, 5])
def test_precision_and_recall_are_torch_fidelitys(k: int) -> None:
    a, b = features(300, width=4), features(400, 0.8, width=4, seed=1)
    theirs = prc_features_to_metric(torch.from_numpy(a).double(), torch.from_numpy(b).double(), prc_neighborhood=k,
                                    prc_batch_size=1000, save_cpu_ram=False, verbose=False)
    assert precision_recall(a, b, k) == {name: pytest.approx(theirs[name], abs=1e-6) for name in ("precision", "recall")}


def test_precision_and_recall_swap_with_the_sets() -> None:
    a, b = features(40, width=3), features(50, 0.8, width=3, seed=1)
    there, back = precision_recall(a, b, 3), precision_recall(b, a, 3)
    assert (there["precision"], there["recall"]) == (back["recall"], back["precision"])


def test_too_few_images_for_the_neighbours_have_no_precision() -> None:
    assert precision_recall(features(3), features(50), 3) == {"precision": None, "recall": None}


def score_of(logits: torch.Tensor, batch: int) -> float | None:
    score = InceptionScore(len(logits))
    for part in logits.split(batch):
        score.add(part)
    return score.value()


def test_the_inception_score_is_torch_fidelitys_and_torchmetrics_in_any_batches() -> None:
    from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, isc_features_to_metric
    logits = torch.randn(103, 7, generator=torch.Generator().manual_seed(0)) * 2
    expected = isc_features_to_metric(logits, splits=10, shuffle=False)[KEY_METRIC_ISC_MEAN]
    assert score_of(logits, 103) == pytest.approx(expected, rel=1e-9)
    assert score_of(logits, 10) == pytest.approx(expected, rel=1e-9)
    whole = logits[:100]
    theirs = TheirScore(feature=torch.nn.Identity(), splits=10)
    theirs.features = [whole]
    torch.manual_seed(0)
    order = torch.randperm(100)     # torchmetrics shuffles with the global generator
    torch.manual_seed(0)
    assert score_of(whole[order], 32) == pytest.approx(float(theirs.compute()[0]), rel=1e-5)


@pytest.mark.parametrize(("logits", "expected"), [(torch.zeros(50, 5), 1.0), (100 * torch.eye(5).repeat(10, 1), 5.0)])
def test_the_inception_score_runs_from_one_to_the_number_of_classes(logits: torch.Tensor, expected: float) -> None:
    assert score_of(logits, 7) == pytest.approx(expected, rel=1e-6)


def test_fewer_images_than_parts_have_no_inception_score() -> None:
    assert score_of(torch.zeros(9, 3), 9) is None


def test_statistics_alone_give_the_frechet_distance_alone() -> None:
    a, b = features(50), features(50, 0.2, seed=1)
    known = FeatureStatistics(50, Gaussian.of(a), a, 2.5)
    found = against(known, FeatureStatistics(None, Gaussian.of(b)), Settings(20, 3))
    assert found["fid"] > 0
    assert found["inception_score"] == 2.5
    assert [found[name] for name in ("kid", "precision", "recall")] == [None, None, None]


def test_nothing_has_no_distance() -> None:
    assert set(against(None, FeatureStatistics(None, Gaussian.of(features(9))), Settings(20, 3)).values()) == {None}
