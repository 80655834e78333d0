"""Data sets in memory, decoded at their first use, and the choice between these and streamed ones."""

import logging
import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import torch

from diffprune.data.loading.images import Images, ImageSet, Taken
from diffprune.data.loading.readable import Readable
from diffprune.data.loading.streamed import StreamedImages
from diffprune.data.loading.transforms import Transform
from diffprune.data.sources import Source
from diffprune.runtime.progress import progress

log = logging.getLogger(__name__)

CHUNK = 256         # images that one process reads in a row


def gather(source: Source, transform: Transform, flip: bool, labels: torch.Tensor | None = None,
           class_count: int | None = None, workers: int = 0, memory_gb: float = math.inf, on_error: str = "stop",
           captions: Sequence[str] = (), **_: Any) -> ImageSet:
    """The images of `source`, in memory up to `memory_gb` (10^9 bytes), else streamed; `workers` processes read.

    Both give the same batches and have the same key, and neither decodes an image before its first use. That raises
    UserError for an image that cannot be used; with `on_error` "skip" the next image replaces it. `class_count` is the
    number of classes where `labels`, int64 [N], are places in a sorted list of their names; label i has the i-th of the
    `captions`, where there are any.
    """
    readable = Readable(source, transform, labels, class_count, on_error == "skip", captions)
    if readable.bytes <= memory_gb * 1e9:
        return HeldImages(readable, flip, workers)
    log.info("%d images are streamed by dataset.workers=%d processes: they take %.1f GB and dataset.memory_gb=%g",
             len(readable), workers, readable.bytes / 1e9, memory_gb)
    readable.source = source.at_random()
    return StreamedImages(readable, flip, workers)


class HeldImages(ImageSet):
    """The images of `readable` in memory, all of them decoded at the first use of one, by `workers` processes.

    The key is that of the files, or `by_pixels` that of the decoded images, which is the same for every layout.
    """

    def __init__(self, readable: Readable, flip: bool, workers: int = 0, by_pixels: bool = False) -> None:
        self.readable, self.flip, self.workers, self.by_pixels = readable, flip, workers, by_pixels
        self.class_count, self.captions = readable.class_count, readable.captions

    @cached_property
    def images(self) -> Images:
        return held(self.readable, self.flip, self.workers)

    @property
    def pixels(self) -> torch.Tensor:
        """uint8 [N, C, H, W]."""
        return self.images.pixels

    @property
    def labels(self) -> torch.Tensor | None:
        """Those of the files; where bad images are replaced, those of the decoded images."""
        return self.images.labels if self.readable.skip and self.readable.labels is not None else self.readable.labels

    @property
    def skipped(self) -> dict[str, str]:
        return self.images.skipped if "images" in self.__dict__ else {}

    def __len__(self) -> int:
        return len(self.readable)

    @cached_property
    def key(self) -> str:
        return self.images.key if self.by_pixels else self.readable.key()

    def to(self, device: torch.device | str) -> "HeldImages":
        moved = HeldImages(self.readable, self.flip, self.workers, self.by_pixels)
        moved.images = self.images.to(device)
        return moved

    def take(self, indices: torch.Tensor) -> Taken:
        return self.images.take(indices)


def held(readable: Readable, flip: bool, workers: int = 0) -> Images:
    """All images decoded into memory, by `workers` processes where there are many."""
    count, side, channels = len(readable), readable.transform.resolution, readable.transform.channels
    pixels = torch.empty(count, channels, side, side, dtype=torch.uint8)
    labels = None if readable.labels is None else torch.empty_like(readable.labels)
    chunks = torch.arange(count).split(CHUNK)
    stream = StreamedImages(readable, flip, min(workers, len(chunks) - 1))

    def fill() -> Iterator[int]:
        for indices, (some, classes) in zip(chunks, stream.taken(chunks), strict=True):
            pixels[indices] = some
            if labels is not None and classes is not None:
                labels[indices] = classes
            yield from indices.tolist()

    for _ in progress(fill(), "reading images", count):
        pass
    return Images(pixels, flip, labels, stream.skipped)
