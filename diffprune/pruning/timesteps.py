"""Timestep policies: which timesteps' gradients count, and how much, one small class per policy.

A policy gives alpha_t, the factor of grad L_t in the sum that scores the weights (in the paper 0 or 1).
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor


class Policy(ABC):
    """`needs_all_losses`: whether every L_t must be known before any alpha_t is; else alpha_t follows from L_0 … L_t."""
    needs_all_losses: ClassVar[bool] = False

    def counts_none(self, total: int) -> bool:
        """Whether no timestep below `total` counts, whatever the losses."""
        return False

    @abstractmethod
    def weights(self, loss: Tensor) -> Tensor:
        """alpha_t [n] of the first n timesteps, from their L_t in `loss` [n]; of all timesteps if it needs all losses."""

    def finished(self, loss: Tensor) -> bool:
        """Whether alpha is 0 at every timestep after the first n, whose L_t are in `loss` [n]."""
        return False


@dataclass(frozen=True)
class Threshold(Policy):
    """The paper's policy: all timesteps before the first with L_t < T max(L_0 … L_t), where T is the `threshold`. With
    `inclusive` that timestep counts too."""
    threshold: float
    inclusive: bool = False

    def __str__(self) -> str:
        return f"threshold {self.threshold:g}"

    def weights(self, loss: Tensor) -> Tensor:
        return (torch.arange(len(loss)) < timesteps_kept(loss, self.threshold) + self.inclusive).float()

    def finished(self, loss: Tensor) -> bool:
        return timesteps_kept(loss, self.threshold) < len(loss)


@dataclass(frozen=True)
class Window(Policy):
    """The timesteps `first` … `last`, both included."""
    first: int
    last: int

    def counts_none(self, total: int) -> bool:
        return self.first > self.last or self.first >= total or self.last < 0

    def weights(self, loss: Tensor) -> Tensor:
        t = torch.arange(len(loss))
        return ((t >= self.first) & (t <= self.last)).float()

    def finished(self, loss: Tensor) -> bool:
        return len(loss) > self.last


@dataclass(frozen=True)
class Largest(Policy):
    """The `count` timesteps with the largest L_t, of equal ones the earlier."""
    count: int
    needs_all_losses: ClassVar[bool] = True

    def counts_none(self, total: int) -> bool:
        return self.count < 1

    def weights(self, loss: Tensor) -> Tensor:
        chosen = torch.argsort(loss, descending=True, stable=True)[:self.count]
        return torch.zeros(len(loss)).index_fill(0, chosen, 1.0)


@dataclass(frozen=True)
class Weights(Policy):
    """alpha_t on straight lines between `points` (t, alpha), and 0 outside them. ValueError unless t ascends."""
    points: Sequence[Sequence[float]]

    def __post_init__(self) -> None:
        places = [point[0] for point in self.points]
        if not places or any(len(point) != 2 for point in self.points) or places != sorted(set(places)):
            raise ValueError(f"pruner.timesteps.points={self.points} must be pairs [t, alpha] with ascending t")

    def weights(self, loss: Tensor) -> Tensor:
        t, alpha = zip(*self.points, strict=True)
        return torch.from_numpy(np.interp(np.arange(len(loss)), t, alpha, left=0.0, right=0.0)).float()

    def finished(self, loss: Tensor) -> bool:
        return len(loss) > self.points[-1][0]


def timesteps_kept(loss: Tensor, threshold: float) -> int:
    """How many timesteps precede the first with L_t < threshold * max(L_0 … L_t), `loss` [n]; n if there is none."""
    below = loss < threshold * loss.cummax(0).values
    return int(below.nonzero()[0]) if below.any() else len(loss)
