"""The Fréchet distance between two Gaussians fitted to features."""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigh, eigvalsh


@dataclass(frozen=True)
class Statistics:
    """Mean [D] and covariance [D, D] (divisor n - 1) of features, float64."""
    mu: np.ndarray
    sigma: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray) -> "Statistics":
        """From features [N, D]; raises ValueError for fewer than two."""
        if len(features) < 2:
            raise ValueError(f"a covariance takes at least 2 images, there are {len(features)}")
        features = features.astype(np.float64)
        return cls(features.mean(0), np.cov(features, rowvar=False))


def frechet_distance(a: Statistics, b: Statistics) -> float:
    """|mu_a - mu_b|² + tr(S_a + S_b - 2 (S_a S_b)^½) (Heusel et al. 2017, eq. 6).

    The trace of the root is the sum of the square roots of the eigenvalues of S_a^½ S_b S_a^½, which is symmetric, so
    that nothing has to be added to a singular covariance.
    """
    values, vectors = eigh(a.sigma)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    cross = np.sqrt(eigvalsh(root @ b.sigma @ root).clip(min=0)).sum()
    difference = a.mu - b.mu
    return float(difference @ difference + np.trace(a.sigma) + np.trace(b.sigma) - 2 * cross)
