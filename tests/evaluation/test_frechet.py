"""The Fréchet distance in closed form and against scipy's matrix root."""

import numpy as np
import pytest
from scipy.linalg import sqrtm

from diffprune.evaluation.frechet import Gaussian, frechet_distance


def gaussian(mu: list[float], sigma: np.ndarray) -> Gaussian:
    return Gaussian(np.array(mu), np.asarray(sigma, dtype=float))


def test_one_dimension_is_the_squared_differences_of_means_and_deviations() -> None:
    assert frechet_distance(gaussian([1.0], [[4.0]]), gaussian([4.0], [[9.0]])) == pytest.approx(9 + 1)


def test_equal_gaussians_are_at_distance_zero_also_when_singular() -> None:
    singular = np.array([[1.0, 1.0], [1.0, 1.0]])
    assert frechet_distance(gaussian([0, 0], singular), gaussian([0, 0], singular)) == pytest.approx(0, abs=1e-9)


def test_it_agrees_with_the_general_matrix_root() -> None:
    rng = np.random.default_rng(0)
    a, b = (Gaussian.of(rng.normal(size=(50, 6)) @ rng.normal(size=(6, 6))) for _ in range(2))
    general = np.sum((a.mu - b.mu) ** 2) + np.trace(a.sigma + b.sigma - 2 * sqrtm(a.sigma @ b.sigma).real)
    assert frechet_distance(a, b) == pytest.approx(general, rel=1e-6)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a))


def test_statistics_are_mean_and_unbiased_covariance() -> None:
    s = Gaussian.of(np.array([[0.0, 0.0], [2.0, 4.0]], dtype=np.float32))
    assert s.mu.tolist() == [1, 2]
    assert s.sigma.tolist() == [[2, 4], [4, 8]]


def test_one_image_is_refused_with_the_count() -> None:
    with pytest.raises(ValueError, match="there are 1"):
        Gaussian.of(np.zeros((1, 4)))
