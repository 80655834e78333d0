"""A data set in two parts: the images that a model is trained on, and those that are held out to measure it."""

import hashlib
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from diffprune.data.loading.images import ImageSet, Taken
from diffprune.runtime.errors import UserError


class Part(ImageSet):
    """The images of the set `whole` that lie at `places` [n], in that order."""

    def __init__(self, whole: ImageSet, places: Tensor) -> None:
        self.whole, self.places, self.flip, self.class_count = whole, places, whole.flip, whole.class_count

    @property
    def labels(self) -> Tensor | None:
        return None if self.whole.labels is None else self.whole.labels[self.places]

    @property
    def skipped(self) -> dict[str, str]:
        return self.whole.skipped

    def __len__(self) -> int:
        return len(self.places)

    @property
    def key(self) -> str:
        return hashlib.sha256(self.whole.key.encode() + self.places.numpy().tobytes()).hexdigest()

    def take(self, indices: Tensor) -> Taken:
        return self.whole.take(self.places[indices])

    def taken(self, wanted: Iterable[Tensor]) -> Iterator[Taken]:
        return self.whole.taken(self.places[indices] for indices in wanted)

    def to(self, device: torch.device | str) -> "Part":
        return Part(self.whole.to(device), self.places)

    def check_count(self, size: int, option: str) -> None:
        """UserError where `pruner.<option>` is a `size` of more images than the part has."""
        if size > len(self):
            total, held_out = len(self.whole), len(self.whole) - len(self)
            raise UserError(f"pruner.{option}={size} asks for more images than dataset.held_out={held_out} leaves of the "
                            f"data set's {total} ({len(self)}): lower one of the two")

    def _classes(self, indices: Tensor) -> Tensor | None:
        return self.whole._classes(self.places[indices])      # the set knows which image replaces a bad one


def split(images: ImageSet, count: int) -> tuple[ImageSet, ImageSet | None]:
    """The part to train on and a held-out part of `count` images, evenly spaced over the set; without any, the set itself.
    UserError where nothing would be left to train on."""
    if count == 0:
        return images, None
    total = len(images)
    if count >= total:
        raise UserError(f"dataset.held_out={count} leaves nothing of the data set's {total} images to train on: give less")
    held = (2 * torch.arange(count) + 1) * total // (2 * count)
    rest = torch.ones(total, dtype=torch.bool)
    rest[held] = False
    return Part(images, rest.nonzero()[:, 0]), Part(images, held)
