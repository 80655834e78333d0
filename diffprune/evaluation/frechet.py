"""The Fréchet distance between two Gaussians fitted to features."""

import zlib
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from scipy.linalg import eigh, eigvalsh

from diffprune.runtime.errors import UserError


@dataclass(frozen=True)
class Gaussian:
    """Mean [D] and covariance [D, D] (divisor n - 1) of features, float64."""
    mu: np.ndarray
    sigma: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray) -> "Gaussian":
        """From features [N, D]; raises ValueError for fewer than two."""
        moments = Moments()
        moments.add(features)
        return moments.gaussian()

    @classmethod
    def read(cls, path: Path) -> "Gaussian":
        """From a `.npz` file with `mu` and `sigma`, as pytorch-fid writes and reads it; raises UserError for another."""
        with statistics_file(path) as stored:
            gaussian = cls(stored["mu"].astype(np.float64), stored["sigma"].astype(np.float64))
        if gaussian.mu.ndim != 1 or gaussian.sigma.shape != (len(gaussian.mu),) * 2:
            raise UserError(f"{path} holds a mean of shape {gaussian.mu.shape} and a covariance of shape "
                            f"{gaussian.sigma.shape}, which do not belong together: make them anew")
        return gaussian


@contextmanager
def statistics_file(path: Path) -> Generator[Mapping[str, np.ndarray]]:
    """The arrays of a `.npz` file, which are read when they are used; UserError where they cannot be."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            yield stored
    except PermissionError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): mend that, or give another file") from error
    except (OSError, KeyError, ValueError, EOFError, BadZipFile, AttributeError, zlib.error) as error:
        raise UserError(f"{path} holds no statistics (mu and sigma in a .npz file): make them anew") from error


class Moments:
    """Sums from which mean and covariance follow; features arrive in batches and are not kept.

    Everything is summed in float64 about the mean of the first batch, so that a mean far from 0 costs no digits.
    """

    def __init__(self) -> None:
        self.count, self.origin = 0, np.zeros(0)
        self.first, self.second = np.zeros(0), np.zeros(0)

    def add(self, features: np.ndarray) -> None:
        """Adds `features` [B, D] to the sums."""
        features = features.astype(np.float64)
        if not self.count:
            width = features.shape[1]
            self.origin, self.first, self.second = features.mean(0), np.zeros(width), np.zeros((width, width))
        centred = features - self.origin
        self.count += len(features)
        self.first += centred.sum(0)
        rows = torch.from_numpy(centred)      # by torch, whose thread pool is active: numpy's would compete with it
        self.second += (rows.T @ rows).numpy()

    def gaussian(self) -> Gaussian:
        """Of everything added so far; raises ValueError for fewer than two images."""
        if self.count < 2:
            raise ValueError(f"a covariance takes at least 2 images, there are {self.count}")
        shift = self.first / self.count
        return Gaussian(self.origin + shift, (self.second - np.outer(shift, self.first)) / (self.count - 1))


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """|mu_a - mu_b|² + tr(S_a + S_b - 2 (S_a S_b)^½) (Heusel et al. 2017, eq. 6).

    The trace of the root is the sum of the square roots of the eigenvalues of S_a^½ S_b S_a^½, which is symmetric, so
    that nothing has to be added to a singular covariance. Raises UserError for features of different widths.
    """
    if a.mu.shape != b.mu.shape:
        raise UserError(f"statistics of {len(a.mu)} and of {len(b.mu)} features do not compare: make both with the same "
                        "feature network")
    values, vectors = eigh(a.sigma)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    cross = np.sqrt(eigvalsh(root @ b.sigma @ root).clip(min=0)).sum()
    difference = a.mu - b.mu
    return float(difference @ difference + np.trace(a.sigma) + np.trace(b.sigma) - 2 * cross)
