"""Where encoded images lie: folders, archives, databases, tables."""

from collections.abc import Iterator
from typing import Protocol


class Source(Protocol):
    """Encoded images by index 0, 1, …, the same on every machine. Threads and processes may share one."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """What people call the image."""

    def read(self, index: int) -> bytes:
        """The encoded image; raises OSError where it cannot be read."""

    def identity(self) -> Iterator[bytes]:
        """What tells this source from every other: relative names and sizes, without reading an image."""

    def at_random(self) -> "Source":
        """The same images from where any one of them is read quickly; `self` for most."""
