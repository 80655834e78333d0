"""Whether a data set is held in memory or streamed, and reading it into memory."""

import logging
import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any

import numpy as np
import torch

from diffprune.data.images import Images, ImageSet
from diffprune.data.readable import Readable
from diffprune.data.skipped import Skipped
from diffprune.data.sources import Source
from diffprune.data.streamed import StreamedImages
from diffprune.data.transforms import Transform
from diffprune.progress import progress

log = logging.getLogger(__name__)

CHUNK = 256         # images that a thread reads in a row


def gather(source: Source, transform: Transform, flip: bool, labels: torch.Tensor | None = None, workers: int = 0,
           memory_gb: float = math.inf, on_error: str = "stop", **_: Any) -> ImageSet:
    """The images of `source`: in memory while they take at most `memory_gb` (10^9 bytes), else streamed by `workers`.

    Both give the same batches and have the same key. Raises UserError for an image that cannot be used, at once or,
    when streamed, as it is met; `on_error` "skip" replaces it by the next one.
    """
    readable = Readable(source, transform, labels, on_error == "skip")
    if readable.bytes <= memory_gb * 1e9:
        return held(readable, flip, readable.key)
    log.info("%d images are streamed by %d processes (dataset.workers): decoded they take %.1f GB, dataset.memory_gb=%g",
             len(readable), workers, readable.bytes / 1e9, memory_gb)
    readable.source = source.at_random()
    return StreamedImages(readable, flip, workers)


def held(readable: Readable, flip: bool, identity: Callable[[], str] | None = None) -> Images:
    """All images decoded into memory, on every core; their key is made of the pixels where no `identity` is given."""
    count, side, channels = len(readable), readable.transform.resolution, readable.transform.channels
    pixels = torch.empty(count, channels, side, side, dtype=torch.uint8)
    array, origin = pixels.numpy(), np.empty(count, np.int64)

    def fill(start: int) -> range:
        indices = range(start, min(start + CHUNK, count))
        for index in indices:
            origin[index], image = readable.image(index)
            array[index] = image.transpose(2, 0, 1)
        return indices

    with ThreadPoolExecutor(cores()) as pool:
        filled = chain.from_iterable(pool.map(fill, range(0, count, CHUNK)))
        try:
            for _ in progress(filled, "reading images", count):
                pass
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    skipped = Skipped()
    skipped.add(readable.bad)
    labels = None if readable.labels is None else readable.labels[torch.from_numpy(origin)]
    return Images(pixels, flip, labels, identity, skipped.names)


def cores() -> int:
    """The processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
