"""Where encoded images are stored: folders, archives, databases, tables."""

from abc import ABC, abstractmethod
from collections.abc import Iterator


class Source(ABC):
    """Encoded images by index 0, 1, …, the same on every machine. Threads and processes may share one."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def name(self, index: int) -> str:
        """The image's name in messages."""

    @abstractmethod
    def read(self, index: int) -> bytes:
        """The encoded image; raises OSError where it cannot be read."""

    @abstractmethod
    def identity(self) -> Iterator[bytes]:
        """What distinguishes this source from every other: relative names and sizes, without reading an image."""

    def at_random(self) -> "Source":
        """The same images in a form in which any one of them is read quickly."""
        return self
