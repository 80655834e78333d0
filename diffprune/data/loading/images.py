"""The interface of every data set, and the set that is held in memory."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from diffprune.data.loading.order import Order, Shard, mirrored
from diffprune.diffusion.pixels import from_uint8
from diffprune.runtime.errors import UserError

Taken = tuple[Tensor, Tensor | None]        # images uint8 [B, C, H, W], and their classes int64 [B] if the set has classes


class ImageSet(ABC):
    """A data set; `flip` says whether a mirrored image still belongs to it. `class_count` is the number of classes where
    they are places in a sorted list of names, None where the data set itself numbers them. Label i has the i-th of the
    `captions`, where there are any.

    Every batch is made by `take`, so that sets in memory and streamed ones give the same batches, bit for bit.
    """
    flip: bool
    class_count: int | None = None
    captions: Sequence[str] = ()

    @property
    def labels(self) -> Tensor | None:
        """The images' classes, int64 [N]; None for a set without classes."""
        return None

    @property
    def skipped(self) -> dict[str, str]:
        """{name: reason} of the unusable images found so far and replaced (dataset.on_error=skip), in index order."""
        return {}

    @abstractmethod
    def __len__(self) -> int: ...

    @property
    @abstractmethod
    def key(self) -> str:
        """Hex digest of what the set is: caches of anything computed from it are filed under this."""

    @abstractmethod
    def take(self, indices: Tensor) -> Taken:
        """The images at `indices` and their classes."""

    def taken(self, wanted: Iterable[Tensor]) -> Iterator[Taken]:
        """`take` for one tensor of indices after another."""
        return map(self.take, wanted)

    def to(self, device: torch.device | str) -> "ImageSet":
        """The set with its pixels on `device`, where batches are then made; a streamed set itself."""
        return self

    @cached_property
    def order(self) -> Order:
        return Order(len(self))

    def batches(self, start: int, stop: int, size: int, seed: int, shard: Shard = (0, 1)) -> Iterator[Taken]:
        """For each training step from `start` to `stop` - 1: float32 images in [-1, 1] and their classes.

        A batch of `size` images depends on (step, size, seed) alone; this yields the `shard` (rank, world size) of it.
        """
        steps = range(start, stop)
        wanted = (self.order.indices(step, size, seed, shard) for step in steps)
        for step, (pixels, labels) in zip(steps, self.taken(wanted), strict=True):
            if self.flip:       # as bytes, a quarter of the work
                turned = mirrored(step, size, seed, shard).to(pixels.device)
                pixels = torch.where(turned.view(-1, 1, 1, 1), pixels.flip(-1), pixels)
            yield from_uint8(pixels), labels

    def calibration(self, size: int, seed: int) -> Tensor:
        """The first `size` images of the seed's shuffle, never mirrored, float32 in [-1, 1]; UserError for fewer."""
        self.check_count(size, "calibration_batch")
        return from_uint8(self.take(self.order.shuffle(0, seed)[:size])[0])

    def check_count(self, size: int, option: str) -> None:
        """UserError where `pruner.<option>` is a `size` of more images than there are."""
        if size > len(self):
            raise UserError(f"pruner.{option}={size} asks for more images than the data set has ({len(self)})")

    def calibration_labels(self, size: int, seed: int) -> Tensor | None:
        """The classes [size] of the images in `calibration`, None for a set without classes."""
        return self._classes(self.order.shuffle(0, seed)[:size])

    def chunks(self, batch: int, indices: Sequence[int] | None = None) -> Iterator[np.ndarray]:
        """The images (at `indices`, else all) in order, uint8 [b, H, W, C] with b = `batch` but for the last."""
        wanted = torch.arange(len(self)) if indices is None else torch.as_tensor(indices, dtype=torch.int64)
        for pixels, _ in self.taken(wanted.split(batch) if len(wanted) else ()):
            yield pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy()

    def _classes(self, indices: Tensor) -> Tensor | None:
        return None if self.labels is None else self.labels[indices]


class Images(ImageSet):
    """A data set in memory: `pixels` uint8 [N, C, H, W]. The key is the digest of every pixel and label."""

    def __init__(self, pixels: Tensor, flip: bool, labels: Tensor | None = None,
                 skipped: dict[str, str] | None = None) -> None:
        self.pixels, self.flip, self._labels, self._skipped = pixels, flip, labels, skipped or {}

    @property
    def labels(self) -> Tensor | None:
        return self._labels

    @property
    def skipped(self) -> dict[str, str]:
        return self._skipped

    def __len__(self) -> int:
        return len(self.pixels)

    @cached_property
    def key(self) -> str:
        digest = hashlib.sha256(self.pixels.cpu().contiguous().numpy().data)
        digest.update(str(self.pixels.shape).encode())
        if self.labels is not None:
            digest.update(self.labels.numpy().tobytes())
        return digest.hexdigest()

    def to(self, device: torch.device | str) -> "Images":
        return Images(self.pixels.to(device), self.flip, self.labels, self.skipped)

    def take(self, indices: Tensor) -> Taken:
        return self.pixels[indices.to(self.pixels.device)], self._classes(indices)
