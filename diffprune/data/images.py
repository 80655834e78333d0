"""Images held in memory as bytes."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from diffprune.diffusion import Stream, from_uint8, generator
from diffprune.errors import UserError


@dataclass(frozen=True)
class Images:
    """A data set: `pixels` uint8 [N, C, H, W]; `flip` says whether a mirrored image is still one of the set.

    `labels` int64 [N] is the class of each image, where the set has classes.
    """
    pixels: Tensor
    flip: bool
    labels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.pixels)

    @cached_property
    def key(self) -> str:
        """Hex digest of every pixel and label: what caches of anything computed from this set are filed under."""
        digest = hashlib.sha256(self.pixels.numpy().tobytes() + str(self.pixels.shape).encode())
        if self.labels is not None:
            digest.update(self.labels.numpy().tobytes())
        return digest.hexdigest()

    def first(self, count: int) -> Tensor:
        """The first `count` images, float32 in [-1, 1]."""
        return from_uint8(self.pixels[:count])

    def batch(self, step: int, size: int, seed: int) -> Tensor:
        """The training batch of `step` (0, 1, …), float32 in [-1, 1]: it depends on (step, size, seed) alone.

        Batches run through one seeded shuffle of the set after another, so every image is seen once per epoch.
        """
        images = from_uint8(self.pixels[self._batch(step, size, seed)])
        if self.flip:
            mirrored = torch.rand(size, generator=generator(seed, Stream.FLIP, step)) < 0.5
            images[mirrored] = images[mirrored].flip(-1)
        return images

    def batch_labels(self, step: int, size: int, seed: int) -> Tensor | None:
        """The classes [size] of the images in `batch`, None for a set without classes."""
        return None if self.labels is None else self.labels[self._batch(step, size, seed)]

    def batches(self, start: int, stop: int, size: int, seed: int,
                part: tuple[int, int] = (0, 1)) -> Iterator[tuple[Tensor, Tensor | None]]:
        """The images, float32 in [-1, 1], and classes of steps `start` … `stop` - 1 that rank part[0] of part[1] works on.

        That is rows rank * size // ranks to (rank + 1) * size // ranks of the step's `batch`, whoever asks for them.
        """
        rank, ranks = part
        rows = slice(rank * size // ranks, (rank + 1) * size // ranks)
        for step in range(start, stop):
            labels = self.batch_labels(step, size, seed)
            yield self.batch(step, size, seed)[rows], None if labels is None else labels[rows]

    def calibration(self, size: int, seed: int) -> Tensor:
        """The fixed scoring batch: the first batch of the seed's shuffle, never mirrored, float32 in [-1, 1]."""
        if size > len(self):
            raise UserError(f"pruner.calibration_batch={size} asks for more images than the data set has ({len(self)})")
        return from_uint8(self.pixels[self._shuffle(0, seed)[:size]])

    def calibration_labels(self, size: int, seed: int) -> Tensor | None:
        """The classes [size] of the images in `calibration`, None for a set without classes."""
        return None if self.labels is None else self.labels[self._shuffle(0, seed)[:size]]

    def _batch(self, step: int, size: int, seed: int) -> Tensor:
        """Indices [size] of the training batch of `step`."""
        places = torch.arange(step * size, (step + 1) * size)
        return torch.cat([self._shuffle(int(epoch), seed)[places[places // len(self) == epoch] % len(self)]
                          for epoch in (places // len(self)).unique()])

    def _shuffle(self, epoch: int, seed: int) -> Tensor:
        return torch.randperm(len(self), generator=generator(seed, Stream.ORDER, epoch))
