"""What is kept of a set of images: exact in any batches, bounded, and readable by others."""

import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from diffprune.diffusion.pixels import batches
from diffprune.evaluation.feature_statistics import FeatureStatistics, subset_indices
from diffprune.evaluation.features import load_extractor
from diffprune.evaluation.features.extractor import Extractor
from diffprune.evaluation.frechet import Gaussian, Moments
from diffprune.runtime.errors import UserError


@pytest.fixture(scope="module")
def extractor() -> Extractor:
    return load_extractor("digits-cnn", None)


def digits_like(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 1), dtype=np.uint8)


def whole(extractor: Extractor, images: np.ndarray, kept: int = 1000, batch: int = 16) -> FeatureStatistics:
    return FeatureStatistics.of(extractor, batches(images, batch), len(images), kept, "images")


def test_statistics_are_numpys_in_any_batches_also_far_from_zero() -> None:
    data = np.random.default_rng(0).normal(1e4, 1e-2, (300, 5))
    for size in (7, 300):
        moments = Moments()
        for part in batches(data, size):
            moments.add(part)
        found = moments.gaussian()
        np.testing.assert_allclose(found.mu, data.mean(0), rtol=1e-12)
        np.testing.assert_allclose(found.sigma, np.cov(data, rowvar=False), rtol=1e-6)


def test_a_portrait_does_not_depend_on_the_batch_size(extractor: Extractor) -> None:
    images = digits_like(50)
    one, other = whole(extractor, images, batch=50), whole(extractor, images, batch=7)
    np.testing.assert_allclose(one.gaussian.sigma, other.gaussian.sigma, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(one.features, other.features, rtol=1e-5, atol=1e-5)
    assert one.inception_score == pytest.approx(other.inception_score, rel=1e-5)


def test_features_are_kept_of_images_subset_rule_the_set(extractor: Extractor) -> None:
    images = digits_like(50)
    kept = whole(extractor, images, kept=10).features
    np.testing.assert_allclose(kept, whole(extractor, images).features[subset_indices(50, 10)], rtol=1e-5, atol=1e-5)


def test_a_subset_is_the_same_everywhere() -> None:
    """Written down: numbers that others made by the same rule must stay comparable."""
    assert subset_indices(50, 10).tolist() == [2, 3, 11, 13, 15, 20, 21, 32, 46, 48]
    assert subset_indices(3, 7).tolist() == [0, 1, 2]


def test_a_subset_has_images_of_every_class() -> None:
    """Image i of ImageNet's 50 000 is of class i modulo 1000; regular steps of 5 would meet 200 of them."""
    chosen = subset_indices(50_000, 10_000)
    assert np.array_equal(chosen, np.unique(chosen))
    assert len(chosen) == 10_000
    of_class = np.bincount(chosen % 1000, minlength=1000)
    assert (of_class.min(), of_class.max()) == (3, 18)      # 10 on average


@pytest.mark.parametrize(("said", "there"), [(49, "more than 49"), (51, "only 50")])
def test_another_number_of_images_than_said_is_refused(extractor: Extractor, said: int, there: str) -> None:
    with pytest.raises(UserError, match=rf"{there} images, {said} are needed"):
        FeatureStatistics.of(extractor, batches(digits_like(50), 16), said, 1000, "images")


def test_images_that_are_made_on_the_fly_take_constant_memory(extractor: Extractor) -> None:
    def peak(count: int) -> int:
        made = (digits_like(100, seed) for seed in range(count // 100))
        tracemalloc.start()
        FeatureStatistics.of(extractor, made, count, 200, "images")
        high = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return high
    peak(400)       # first call: imports and buffers
    assert peak(6000) < 1.5 * peak(600)


def test_a_portrait_outlasts_its_file(extractor: Extractor, tmp_path: Path) -> None:
    portrait = whole(extractor, digits_like(30))
    portrait.save(tmp_path / "p.npz")
    again = FeatureStatistics.read(tmp_path / "p.npz")
    assert (again.count, again.inception_score) == (30, portrait.inception_score)
    assert np.array_equal(again.gaussian.sigma, portrait.gaussian.sigma)
    assert np.array_equal(again.features, portrait.features)
    assert again.made_with == portrait.made_with == {"features": "digits-cnn", **extractor.protocol}
    portrait = replace(portrait, skipped={"a.png": "is not a readable image"})
    portrait.save(tmp_path / "p.npz")
    assert FeatureStatistics.read(tmp_path / "p.npz").skipped == {"a.png": "is not a readable image"}


def test_statistics_of_another_extractor_are_refused(extractor: Extractor, tmp_path: Path) -> None:
    whole(extractor, digits_like(30)).save(tmp_path / "p.npz")
    portrait = FeatureStatistics.read(tmp_path / "p.npz")
    portrait.check(extractor, tmp_path / "p.npz")
    other = replace(extractor, protocol=extractor.protocol | {"features_sha256": "another"})
    with pytest.raises(UserError, match=r"p\.npz was made with digits-cnn .*, these features are digits-cnn .*another"):
        portrait.check(other, tmp_path / "p.npz")


def test_pytorch_fid_reads_what_is_saved_and_the_other_way_round(extractor: Extractor, tmp_path: Path) -> None:
    from pytorch_fid.fid_score import compute_statistics_of_path
    portrait = whole(extractor, digits_like(30))
    portrait.save(tmp_path / "ours.npz")
    mu, sigma = compute_statistics_of_path(str(tmp_path / "ours.npz"), None, 1, 64, "cpu")
    assert np.array_equal(mu, portrait.gaussian.mu)
    assert np.array_equal(sigma, portrait.gaussian.sigma)
    np.savez_compressed(tmp_path / "theirs.npz", mu=mu, sigma=sigma)
    read = FeatureStatistics.read(tmp_path / "theirs.npz")
    assert (read.count, read.features, read.inception_score) == (None, None, None)
    assert np.array_equal(read.gaussian.mu, mu)


@pytest.mark.parametrize("content", [b"", b"PK no archive", None])
def test_a_file_without_statistics_is_named(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "s.npz"
    if content is None:
        np.savez(file, mean=np.zeros(3))
    else:
        file.write_bytes(content)
    with pytest.raises(UserError, match=r"s\.npz holds no statistics"):
        Gaussian.read(file)


def test_a_mean_and_a_covariance_of_different_widths_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", mu=np.zeros(3), sigma=np.eye(4))
    with pytest.raises(UserError, match="do not belong together"):
        Gaussian.read(tmp_path / "s.npz")


def test_images_of_another_shape_than_the_network_was_made_for_are_refused(extractor: Extractor) -> None:
    with pytest.raises(UserError, match=r"digits-cnn looks at images of shape \(1, 8, 8\), these have \(3, 32, 32\)"):
        extractor.features(np.zeros((1, 32, 32, 3), np.uint8))
