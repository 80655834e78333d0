"""Which images a training step sees, and which of them mirrored."""

import torch
from torch import Tensor

from diffprune.diffusion.randomness import Stream, generator

Shard = tuple[int, int]      # (rank, world): the equal part of a batch that process `rank` of `world` computes


class Order:
    """One seeded shuffle of `length` images after another, so that every image is seen once per epoch."""

    def __init__(self, length: int) -> None:
        self.length = length
        self._recent: dict[tuple[int, int], Tensor] = {}    # the last two shuffles: a batch may reach into the next epoch

    def indices(self, step: int, size: int, seed: int, shard: Shard = (0, 1)) -> Tensor:
        """Indices of the images in `shard` of the batch of `size` at `step`: places step * size … of the shuffles."""
        low, high = bounds(size, shard)
        places = torch.arange(step * size + low, step * size + high)
        epochs = places // self.length
        return torch.cat([self.shuffle(int(epoch), seed)[places[epochs == epoch] % self.length]
                          for epoch in epochs.unique()] or [places])

    def shuffle(self, epoch: int, seed: int) -> Tensor:
        """The permutation of `epoch`, int64 [length]."""
        if (epoch, seed) not in self._recent:
            permutation = torch.randperm(self.length, generator=generator(seed, Stream.ORDER, epoch))
            self._recent = dict(list(self._recent.items())[-1:]) | {(epoch, seed): permutation}
        return self._recent[epoch, seed]


def mirrored(step: int, size: int, seed: int, shard: Shard = (0, 1)) -> Tensor:
    """Which images of a `shard` of the batch at `step` are mirrored, bool; drawn for the complete batch."""
    low, high = bounds(size, shard)
    return (torch.rand(size, generator=generator(seed, Stream.FLIP, step)) < 0.5)[low:high]


def bounds(size: int, shard: Shard) -> tuple[int, int]:
    """The contiguous places [low, high) of a batch of `size` that belong to `shard`."""
    rank, world = shard
    return rank * size // world, (rank + 1) * size // world
