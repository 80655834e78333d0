"""What makes a channel expendable: one small class per criterion, all with the same signature.

A layer's weight w (and its gradient g, summed over timesteps) is reduced once to *terms*, one number per (out, in)
pair summed over the kernel, [O, I], or per channel of a norm, [C]. A criterion reads the terms of the slices that
belong to the channels of one dependency group and gives one score per channel; low scores go first.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Generator, Tensor

TERMS: dict[str, Callable[[Tensor, Tensor | None], Tensor]] = {
    "w2": lambda w, g: w.square(),
    "wg": lambda w, g: w * g,
    "wg2": lambda w, g: (w * g).square(),
    "abs_wg": lambda w, g: (w * g).abs(),
}


def reduce_term(name: str, w: Tensor, g: Tensor | None) -> Tensor:
    """Term `name` of a layer's weight: [O, I, …] summed over the kernel to [O, I]; a norm's [C] stays [C]."""
    term = TERMS[name](w, g)
    return term.flatten(2).sum(2) if term.dim() > 2 else term


@dataclass(frozen=True)
class Slice:
    """What one member layer contributes to its group: per term a [channels, others] (weight) or [channels, 1] (norm)."""
    is_norm: bool
    is_group_norm: bool
    terms: Mapping[str, Tensor]

    def sum(self, term: str) -> Tensor:
        """[channels]"""
        return self.terms[term].sum(1)


class Criterion(Protocol):
    """`terms`: what scoring must provide; `gradient`: whether that takes a walk over the timesteps, and then:

    `mean_loss`: L_t is the mean over C, H, W, not the sum (which one matters where terms of different powers of it are
    added); `inclusive`: the gradient of the timestep at which the gate closes counts as well.
    """
    terms: ClassVar[tuple[str, ...]]
    gradient: ClassVar[bool]
    mean_loss: ClassVar[bool]
    inclusive: ClassVar[bool]

    def score(self, slices: list[Slice], channels: int, rng: Generator) -> Tensor:
        """One score per channel of the group's root, [channels]; higher is more important."""


class WithoutGradient:
    """What weights or chance alone decide."""
    gradient: ClassVar[bool] = False
    mean_loss: ClassVar[bool] = False
    inclusive: ClassVar[bool] = False


class Taylor:
    """What the loss decides: its sum over pixels, up to the timestep before the gate closes."""
    gradient: ClassVar[bool] = True
    mean_loss: ClassVar[bool] = False
    inclusive: ClassVar[bool] = False


class Random(WithoutGradient):
    """A uniform draw per channel."""
    terms: ClassVar[tuple[str, ...]] = ()

    def score(self, slices: list[Slice], channels: int, rng: Generator) -> Tensor:
        return torch.rand(channels, generator=rng)


class Magnitude(WithoutGradient):
    """sum w², averaged over the conv and linear slices, relative to the group's mean; norms are ignored."""
    terms: ClassVar[tuple[str, ...]] = ("w2",)

    def score(self, slices: list[Slice], channels: int, rng: Generator) -> Tensor:
        mean = torch.stack([s.sum("w2") for s in slices if not s.is_norm]).mean(0)
        return mean / mean.mean()


class DiffPruning(Taylor):
    """sum (w·g)² of conv and linear slices plus |w·g| of norms: the criterion behind the paper's published rows."""
    terms: ClassVar[tuple[str, ...]] = ("wg", "wg2")

    def score(self, slices: list[Slice], channels: int, rng: Generator) -> Tensor:
        return torch.stack([s.sum("wg").abs() if s.is_norm else s.sum("wg2") for s in slices]).sum(0)


class FirstOrderTaylor(Taylor):
    """|sum w·g| over all slices: what removing the channel does to the loss, to first order."""
    terms: ClassVar[tuple[str, ...]] = ("wg",)

    def score(self, slices: list[Slice], channels: int, rng: Generator) -> Tensor:
        return torch.stack([s.sum("wg") for s in slices]).sum(0).abs()


class SecondOrderTaylor(Taylor):
    """|sum w·g + sum (w·g)²| over all slices: the Hessian's diagonal stands in as the squared gradient."""
    terms: ClassVar[tuple[str, ...]] = ("wg", "wg2")

    def score(self, slices: list[Slice], channels: int, rng: Generator) -> Tensor:
        return torch.stack([s.sum("wg") + s.sum("wg2") for s in slices]).sum(0).abs()


class TorchPruningTaylor(Taylor):
    """sum |w·g| of conv, linear and LayerNorm slices, averaged over them; GroupNorm is ignored (Torch-Pruning 1.6.1)."""
    terms: ClassVar[tuple[str, ...]] = ("abs_wg",)

    def score(self, slices: list[Slice], channels: int, rng: Generator) -> Tensor:
        mean = torch.stack([s.sum("abs_wg") for s in slices if not s.is_group_norm]).mean(0)
        return mean / mean.mean()


class DiffusersScript(TorchPruningTaylor):
    """The same of the mean loss, the stopping timestep's gradient included: the authors' later script for diffusers."""
    mean_loss: ClassVar[bool] = True
    inclusive: ClassVar[bool] = True
