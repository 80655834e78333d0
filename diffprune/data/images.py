"""Images held in memory as bytes."""

import hashlib
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from diffprune.diffusion import Stream, from_uint8, generator
from diffprune.errors import UserError


@dataclass(frozen=True)
class Images:
    """A data set: `pixels` uint8 [N, C, H, W]; `flip` says whether a mirrored image is still one of the set."""
    pixels: Tensor
    flip: bool

    def __len__(self) -> int:
        return len(self.pixels)

    @cached_property
    def key(self) -> str:
        """Hex digest of every pixel: what caches of anything computed from this set are filed under."""
        return hashlib.sha256(self.pixels.numpy().tobytes() + str(self.pixels.shape).encode()).hexdigest()

    def first(self, count: int) -> Tensor:
        """The first `count` images, float32 in [-1, 1]."""
        return from_uint8(self.pixels[:count])

    def batch(self, step: int, size: int, seed: int) -> Tensor:
        """The training batch of `step` (0, 1, …), float32 in [-1, 1]: it depends on (step, size, seed) alone.

        Batches run through one seeded shuffle of the set after another, so every image is seen once per epoch.
        """
        places = torch.arange(step * size, (step + 1) * size)
        indices = torch.cat([self._shuffle(int(epoch), seed)[places[places // len(self) == epoch] % len(self)]
                             for epoch in (places // len(self)).unique()])
        images = from_uint8(self.pixels[indices])
        if self.flip:
            mirrored = torch.rand(size, generator=generator(seed, Stream.FLIP, step)) < 0.5
            images[mirrored] = images[mirrored].flip(-1)
        return images

    def calibration(self, size: int, seed: int) -> Tensor:
        """The fixed scoring batch: the first batch of the seed's shuffle, never mirrored, float32 in [-1, 1]."""
        if size > len(self):
            raise UserError(f"pruner.calibration_batch={size} asks for more images than the data set has ({len(self)})")
        return from_uint8(self.pixels[self._shuffle(0, seed)[:size]])

    def _shuffle(self, epoch: int, seed: int) -> Tensor:
        return torch.randperm(len(self), generator=generator(seed, Stream.ORDER, epoch))
