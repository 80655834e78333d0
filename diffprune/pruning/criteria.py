"""Pruning criteria: how important a channel is, one small class per criterion, all with the same signature.

A layer's weight w, and its gradient g summed over timesteps, is reduced once to *terms*: one number per (out, in) pair,
summed over the kernel, [O, I], or one per channel of a norm, [C]. A criterion reads the terms of the slices that belong to
the channels of one dependency group and gives one score per channel. The channels with the lowest scores are removed.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

Term = Callable[[Tensor, Tensor], Tensor]       # (w, g) -> a tensor of their shape; g is zero where there is no gradient

TERMS: dict[str, Term] = {
    "w2": lambda w, g: w.square(),
    "wg": lambda w, g: w * g,
    "wg2": lambda w, g: (w * g).square(),
    "abs_wg": lambda w, g: (w * g).abs(),
}


def shared_terms(*names: str) -> dict[str, Term]:
    """Those of `TERMS` with the given names."""
    return {name: TERMS[name] for name in names}


def reduce_term(term: Term, w: Tensor, g: Tensor) -> Tensor:
    """`term` of a layer's weight: [O, I, …] is summed over the kernel to [O, I]; a norm's [C] stays [C]."""
    values = term(w, g)
    return values.flatten(2).sum(2) if values.dim() > 2 else values


@dataclass(frozen=True)
class Slice:
    """One member layer's terms for its group's channels: each [channels, others], or [channels, 1] of a norm."""
    is_norm: bool
    is_group_norm: bool
    terms: Mapping[str, Tensor]

    def sum(self, term: str) -> Tensor:
        """The term summed over all that belongs to a channel, [channels]."""
        return self.terms[term].sum(1)


class Criterion(ABC):
    """What scores channels; a criterion defines `terms` and `score`, and the other attributes where they differ.

    `terms`: {name: function} of all that `score` reads from its slices; the functions may be the criterion's own.
    `gradient`: whether the terms need gradients, and so a scoring pass over the timesteps. Then `mean_loss` says whether
    L_t is the mean over C, H, W instead of the sum (this matters where terms of different powers of it are added), and
    `inclusive` whether the gradient of the timestep at which the threshold is reached counts too.
    """
    terms: ClassVar[Mapping[str, Term]]
    gradient: ClassVar[bool] = False
    mean_loss: ClassVar[bool] = False
    inclusive: ClassVar[bool] = False

    @abstractmethod
    def score(self, slices: list[Slice], channels: int, rng: Generator) -> Tensor:
        """The importance of each channel of the group's root, [channels]; `rng` is for criteria that draw at random."""


class Random(Criterion):
    """A uniform random score per channel."""
    terms = shared_terms()

    def score(self, slices: list[Slice], channels: int, rng: Generator) -> Tensor:
        return torch.rand(channels, generator=rng)


class Magnitude(Criterion):
    """sum w², averaged over the conv and linear slices, relative to the group's mean; norms are ignored."""
    terms = shared_terms("w2")

    def score(self, slices: list[Slice], channels: int, rng: Generator) -> Tensor:
        mean = torch.stack([s.sum("w2") for s in slices if not s.is_norm]).mean(0)
        return mean / mean.mean()


class DiffPruning(Criterion):
    """sum (w·g)² of conv and linear slices plus |w·g| of norms: the criterion behind the paper's published rows."""
    gradient = True
    terms = shared_terms("wg", "wg2")

    def score(self, slices: list[Slice], channels: int, rng: Generator) -> Tensor:
        return torch.stack([s.sum("wg").abs() if s.is_norm else s.sum("wg2") for s in slices]).sum(0)


class FirstOrderTaylor(Criterion):
    """|sum w·g| over all slices: what removing the channel does to the loss, to first order."""
    gradient = True
    terms = shared_terms("wg")

    def score(self, slices: list[Slice], channels: int, rng: Generator) -> Tensor:
        return torch.stack([s.sum("wg") for s in slices]).sum(0).abs()


class SecondOrderTaylor(Criterion):
    """|sum w·g + sum (w·g)²| over all slices: the Hessian's diagonal stands in as the squared gradient."""
    gradient = True
    terms = shared_terms("wg", "wg2")

    def score(self, slices: list[Slice], channels: int, rng: Generator) -> Tensor:
        return torch.stack([s.sum("wg") + s.sum("wg2") for s in slices]).sum(0).abs()


class TorchPruningTaylor(Criterion):
    """sum |w·g| of conv, linear and LayerNorm slices, averaged over them; GroupNorm is ignored (Torch-Pruning 1.6.1)."""
    gradient = True
    terms = shared_terms("abs_wg")

    def score(self, slices: list[Slice], channels: int, rng: Generator) -> Tensor:
        mean = torch.stack([s.sum("abs_wg") for s in slices if not s.is_group_norm]).mean(0)
        return mean / mean.mean()


class DiffusersScript(TorchPruningTaylor):
    """The authors' later script for diffusers: the same of the mean loss, up to and with where the threshold is reached."""
    mean_loss = True
    inclusive = True
