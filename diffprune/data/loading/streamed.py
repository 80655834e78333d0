"""A data set that is read as it is needed, ahead of its use, by several processes."""

import logging
import warnings
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from diffprune.data.loading.images import ImageSet, Taken
from diffprune.data.loading.readable import Bad, Readable
from diffprune.runtime.errors import UserError
from diffprune.runtime.interrupt import unheard

log = logging.getLogger(__name__)

NAMED = 10      # images that a message names


class StreamedImages(ImageSet):
    """The images of `readable`, decoded when they are needed; `workers` processes read ahead (0: none).

    `labels` are those of the files; an image that replaces a bad one comes with its own class.
    """

    def __init__(self, readable: Readable, flip: bool, workers: int = 0) -> None:
        self.readable, self.flip, self.workers = readable, flip, workers
        self.class_count, self.captions = readable.class_count, readable.captions
        self._skipped = Skipped()

    @property
    def labels(self) -> Tensor | None:
        return self.readable.labels

    @property
    def skipped(self) -> dict[str, str]:
        return self._skipped.reasons

    def __len__(self) -> int:
        return len(self.readable)

    @cached_property
    def key(self) -> str:
        return self.readable.key()

    def take(self, indices: Tensor) -> Taken:
        return self._accepted(Requests(self.readable)[indices])

    def taken(self, wanted: Iterable[Tensor]) -> Iterator[Taken]:
        if self.workers == 0:
            yield from map(self.take, wanted)
            return
        with warnings.catch_warnings():     # more processes than cores are fine: they wait for files, too
            warnings.filterwarnings("ignore", "This DataLoader will create")
            # A generator of its own: the loader would otherwise draw from the global one.
            with unheard():     # a request to stop is often sent to all processes of a run: these end with their reader
                answers = iter(DataLoader(Requests(self.readable), sampler=wanted, batch_size=None, collate_fn=unchanged,
                                          num_workers=self.workers, generator=torch.Generator()))
        try:
            while (answer := self._next(answers)) is not None:
                yield self._accepted(answer)
        finally:
            del answers     # ends the processes now: an error's traceback would keep them

    def _next(self, answers: Iterator["Answer"]) -> "Answer | None":
        try:
            return next(answers, None)
        except RuntimeError as error:
            if "DataLoader worker (pid" not in str(error):     # a defect in what the process ran
                raise
            raise UserError(f"a process that reads images was killed, mostly for want of memory ({error}): "
                            f"lower dataset.workers={self.workers}") from error

    def _accepted(self, answer: "Answer") -> Taken:
        if isinstance(answer, UserError):
            raise answer
        pixels, origin, bad = answer
        if bad:
            self._skipped.add(bad)
        return torch.from_numpy(pixels), None if self.labels is None else self.labels[torch.from_numpy(origin)]

    def _classes(self, indices: Tensor) -> Tensor | None:
        if self.readable.skip and self.labels is not None:
            return self.take(indices)[1]        # only reading shows which image replaces a bad one
        return super()._classes(indices)


# Images uint8 [B, C, H, W], the indices they come from, and the bad images met; or the error to raise.
Answer = tuple[np.ndarray, np.ndarray, dict[int, Bad]] | UserError


class Requests(Dataset):
    """What a reading process answers. NumPy arrays travel through a pipe: shared memory is small in many containers.

    A UserError is an answer too, because the loader would wrap a raised one into a traceback.
    """

    def __init__(self, readable: Readable) -> None:
        self.readable = readable

    def __getitem__(self, index: Tensor) -> Answer:
        """The answer for the images at the int64 [B] `index`."""
        reported = set(self.readable.bad)
        try:
            images = [self.readable.image(place) for place in index.tolist()]
        except UserError as error:
            return error
        side, channels = self.readable.transform.resolution, self.readable.transform.channels
        pixels = np.empty((len(images), channels, side, side), np.uint8)
        for row, (_, image) in enumerate(images):
            pixels[row] = image.transpose(2, 0, 1)
        origin = np.array([place for place, _ in images], np.int64)
        return pixels, origin, {place: why for place, why in self.readable.bad.items() if place not in reported}


def unchanged(answer: Any) -> Any:
    return answer


class Skipped:
    """Collects unusable images by index; logs their count and the first names, then whenever the count has doubled."""

    def __init__(self) -> None:
        self.bad: dict[int, Bad] = {}
        self.logged = 0     # images in the last message

    def add(self, bad: dict[int, Bad]) -> None:
        """Adds the `bad` images, by index; an image counts once."""
        self.bad |= bad
        count = len(self.bad)
        if count > self.logged and (count <= NAMED or count >= 2 * self.logged):
            self.logged = count
            names, rest = list(self.reasons)[:NAMED], count - NAMED
            log.warning("%d image%s left out as unusable, the next good one stands in: %s%s", count,
                        " is" if count == 1 else "s are", ", ".join(names), f" and {rest} more" if rest > 0 else "")

    @property
    def reasons(self) -> dict[str, str]:
        """{name: why it cannot be used} in index order."""
        return dict(self.bad[index] for index in sorted(self.bad))
