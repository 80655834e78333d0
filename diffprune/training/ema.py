"""The moving average of the weights, which is what gets sampled."""

from collections.abc import Sequence

import torch
from torch import Tensor


@torch.no_grad()
def follow(average: list[Tensor], weights: list[Tensor], beta: float) -> None:
    """average <- beta average + (1 - beta) weight, in place, all tensors in a few kernels."""
    torch._foreach_lerp_(average, weights, 1 - beta)


@torch.no_grad()
def swap(average: Sequence[Tensor], weights: Sequence[Tensor]) -> None:
    """Exchanges the weights with their average, in place."""
    for mean, weight in zip(average, weights, strict=True):
        former = weight.detach().clone()
        weight.copy_(mean)
        mean.copy_(former)
