"""Encoded images that can be read one by one, in any order, by any process."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from diffprune.data.loading.decoding import BadImage, decoded
from diffprune.data.loading.transforms import Transform
from diffprune.data.sources import Source
from diffprune.runtime.errors import UserError

DECODING = "upright, on white"      # what files show; images decoded otherwise are another set
Bad = tuple[str, str]       # an image's name, and why it cannot be used


@dataclass
class Readable:
    """The images of `source` after `transform`; `labels` int64 [N] or None; `skip` leaves bad images out. `class_count`: how
    many classes there are, where they are places in a sorted list of names. Label i has the i-th of the `captions`, where
    there are any.

    A bad image is then replaced by the next good one in index order (the first follows the last), so that the image at an
    index depends on the files alone, and every count is unchanged.
    """
    source: Source
    transform: Transform
    labels: Tensor | None = None
    class_count: int | None = None
    skip: bool = False
    captions: Sequence[str] = ()
    bad: dict[int, Bad] = field(default_factory=dict)       # the bad images that this process has met, by index

    def __len__(self) -> int:
        return len(self.source)

    @property
    def bytes(self) -> int:
        """Of all images, decoded."""
        return len(self) * self.transform.channels * self.transform.resolution**2

    def image(self, index: int) -> tuple[int, np.ndarray]:
        """The image used for `index`, uint8 [H, W, C], and the index that it comes from."""
        for place in range(index, index + len(self)):
            place %= len(self)
            if place not in self.bad:
                try:
                    return place, self.decoded(place)
                except BadImage as error:
                    if not self.skip:
                        raise UserError(f"{self.source.name(place)} {error} (dataset.on_error=skip leaves such images "
                                        "out)") from error
                    self.bad[place] = self.source.name(place), str(error)
        raise UserError(f"none of the {len(self)} images can be used, {self.source.name(index)} as little as the others: "
                        "copy the data set again")

    def decoded(self, place: int) -> np.ndarray:
        """The image at `place` itself; raises BadImage."""
        try:
            data = self.source.read(place)
        except OSError as error:
            raise BadImage(f"cannot be read ({error.strerror or error}): mend or remove it") from error
        return self.transform(decoded(data, self.transform.channels))

    def key(self) -> str:
        """Hex digest of the source's identity (every relative path and size), the classes, captions and transform.

        It does not see the pixels, which would mean reading everything: a file that is replaced by another of the same
        name and size keeps the key.
        """
        digest = hashlib.sha256(f"{DECODING}, {self.transform}, skip={self.skip}".encode())
        for some in self.source.identity():
            digest.update(some)
        if self.labels is not None:
            digest.update(self.labels.numpy())
        for caption in self.captions:
            digest.update(f"{caption}\0".encode())
        return digest.hexdigest()
