"""Image files in a tree of folders."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from diffprune.data.sources import Source
from diffprune.data.sources.names import BLOCK, HIDDEN, SUFFIXES, is_image, log_passed_over, packed
from diffprune.runtime.errors import UserError
from diffprune.runtime.progress import progress

SIZE_THREADS = 16      # that query file sizes: each query takes long on a network file system


@dataclass(frozen=True)
class FolderSource(Source):
    """The files `names` (relative, with /) below `root`."""
    root: Path
    names: pa.Array

    @classmethod
    def of(cls, root: Path) -> "FolderSource":
        """Every image file below `root`, at any depth, in path order; raises UserError where there is none."""
        names = packed(map(os.fsencode, image_paths(str(root))))
        if not len(names):
            raise UserError(f"dataset.path={root} holds no image ({', '.join(SUFFIXES)})")
        return cls(root, names)

    def chosen(self, places: np.ndarray) -> "FolderSource":
        """Only the files at `places`."""
        return FolderSource(self.root, self.names.take(pa.array(places)))

    def __len__(self) -> int:
        return len(self.names)

    def path(self, index: int) -> Path:
        return self.root / os.fsdecode(self.names[index].as_py())

    def name(self, index: int) -> str:
        return str(self.path(index))

    def read(self, index: int) -> bytes:
        with open(self.path(index), "rb") as file:
            return file.read()

    def identity(self) -> Iterator[bytes]:
        root = os.fsencode(self.root)
        with ThreadPoolExecutor(SIZE_THREADS) as pool:
            for start in progress(range(0, len(self), BLOCK), "asking for file sizes", -(-len(self) // BLOCK)):
                names = self.names.slice(start, BLOCK).to_pylist()
                chunks = [names[i:i + 1024] for i in range(0, len(names), 1024)]
                sizes = pool.map(lambda chunk: [size(os.path.join(root, name)) for name in chunk], chunks)
                yield b"\0".join(names)
                yield np.array([one for chunk in sizes for one in chunk], np.int64).tobytes()


def size(path: bytes) -> int:
    """Of a file in bytes; -1 where it is not accessible, which reading the file reports."""
    try:
        return os.stat(path).st_size
    except OSError:
        return -1


def image_paths(folder: str) -> Iterator[str]:
    """Relative paths of the image files below `folder`, in path order whatever the file system lists; the numbers of other
    files are then logged."""
    others: list[str] = []
    yield from images_below(folder, "", others)
    log_passed_over(folder, others)


def images_below(folder: str, prefix: str, others: list[str]) -> Iterator[str]:
    """Paths, after `prefix`, of the image files below `folder`; names of other files are added to `others`.

    Hidden entries are left out, links to folders followed. No file is queried beyond the listing.
    """
    try:
        with os.scandir(folder) as entries:
            folders, names = set(), []
            for entry in entries:
                if entry.name.startswith(HIDDEN):
                    continue
                image = is_image(entry.name)
                if entry.is_dir(follow_symlinks=not image):
                    folders.add(entry.name)
                (names if image or entry.name in folders else others).append(entry.name)
    except OSError as error:
        raise UserError(f"the folder {folder} cannot be listed ({error.strerror or error}): mend it") from error
    for name in sorted(names):
        if name in folders:
            yield from images_below(os.path.join(folder, name), f"{prefix}{name}/", others)
        else:
            yield f"{prefix}{name}"
