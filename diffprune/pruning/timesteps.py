"""Which timesteps' gradients count, and how much: one small class per policy, all with the same signature.

A policy gives alpha_t, the factor of grad L_t in the sum that scores the weights (PAPER: 0 or 1).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor


class Policy(Protocol):
    """`needs_all`: whether no alpha_t is known before every L_t is; else each follows from L_0 … L_t."""
    needs_all: ClassVar[bool]

    def weights(self, loss: Tensor) -> Tensor:
        """alpha_t [n] of the first n timesteps, whose L_t are in `loss` [n] (all of them where `needs_all`)."""

    def over(self, loss: Tensor) -> bool:
        """Whether alpha is 0 at every timestep that comes after those of `loss` [n]."""


@dataclass(frozen=True)
class Gate:
    """The paper's: all before the first t with L_t < T * max(L_0 … L_t), T the `threshold`; with `inclusive` it too."""
    threshold: float
    inclusive: bool = False
    needs_all: ClassVar[bool] = False

    def __str__(self) -> str:
        return f"threshold {self.threshold:g}"

    def weights(self, loss: Tensor) -> Tensor:
        return (torch.arange(len(loss)) < gate(loss, self.threshold) + self.inclusive).float()

    def over(self, loss: Tensor) -> bool:
        return gate(loss, self.threshold) < len(loss)


@dataclass(frozen=True)
class Window:
    """The timesteps `first` … `last`, both included."""
    first: int
    last: int
    needs_all: ClassVar[bool] = False

    def weights(self, loss: Tensor) -> Tensor:
        t = torch.arange(len(loss))
        return ((t >= self.first) & (t <= self.last)).float()

    def over(self, loss: Tensor) -> bool:
        return len(loss) > self.last


@dataclass(frozen=True)
class Largest:
    """The `count` timesteps with the largest L_t (of equal ones the earlier): where the model errs most."""
    count: int
    needs_all: ClassVar[bool] = True

    def weights(self, loss: Tensor) -> Tensor:
        chosen = torch.argsort(loss, descending=True, stable=True)[:self.count]
        return torch.zeros(len(loss)).index_fill(0, chosen, 1.0)

    def over(self, loss: Tensor) -> bool:
        return False


@dataclass(frozen=True)
class Weights:
    """alpha_t along straight lines between `points` (t, alpha), ascending in t; 0 before the first and after the last."""
    points: Sequence[Sequence[float]]
    needs_all: ClassVar[bool] = False

    def __post_init__(self) -> None:
        places = [point[0] for point in self.points]
        if not places or any(len(point) != 2 for point in self.points) or places != sorted(set(places)):
            raise ValueError(f"pruner.timesteps.points={self.points} must be pairs [t, alpha] with ascending t")

    def weights(self, loss: Tensor) -> Tensor:
        t, alpha = zip(*self.points, strict=True)
        return torch.from_numpy(np.interp(np.arange(len(loss)), t, alpha, left=0.0, right=0.0)).float()

    def over(self, loss: Tensor) -> bool:
        return len(loss) > self.points[-1][0]


def gate(loss: Tensor, threshold: float) -> int:
    """How many timesteps come before the first t with L_t < T * max(L_0 … L_t); all of them where none is."""
    closed = loss < threshold * loss.cummax(0).values
    return int(closed.nonzero()[0]) if closed.any() else len(loss)
