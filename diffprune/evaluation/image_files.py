"""Images on the disk, in their own size and in a fixed order: folders, array files, runs."""

import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Protocol

import numpy as np

from diffprune.data.loading.decoding import BadImage, decoded
from diffprune.data.sources.folder import image_paths
from diffprune.diffusion.pixels import batches
from diffprune.runs.run import Run
from diffprune.runtime.checksums import check
from diffprune.runtime.errors import UserError
from diffprune.runtime.files import exists, is_folder


class ImageFiles(Protocol):
    """`len` images of one `shape` (H, W, C); `chunks` yields them in order, uint8 [B, H, W, C] with B <= `batch`."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __len__(self) -> int: ...

    def chunks(self, batch: int) -> Iterator[np.ndarray]: ...


def open_images(path: Path, channels: int = 3) -> ImageFiles:
    """The images of a run folder, of a `.npy` file or of a folder of image files, which are read as `channels`, 1 or 3.

    Files are in the order of their paths, numbers in these by their value (2.png, 10.png). Raises UserError for anything
    else.
    """
    path = path.expanduser()
    if exists(stored := Run(path).images):
        path = stored
    if path.suffix == ".npy":
        return ArrayFile(read_array(path))
    if is_folder(path) and (names := sorted(image_paths(str(path)), key=words)):
        return ImageFolder([path / name for name in names], channels)
    raise UserError(f"{path} holds no images: give a folder of images, a .npy file or a run folder")


def words(path: str | Path) -> tuple[str | int, ...]:
    """The text and the numbers of a path, in turns, without the suffix: ("images/", 10, "") of images/010.png."""
    return tuple(int(word) if place % 2 else word
                 for place, word in enumerate(re.split(r"(\d+)", os.path.splitext(path)[0])))


def read_array(path: Path) -> np.ndarray:
    """The images of a `.npy` file, uint8 [N, H, W, C], mapped into memory; raises UserError for other content."""
    try:
        check(path)
        images = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} is no readable array file: copy it again") from error
    if images.ndim != 4 or images.dtype != np.uint8 or images.shape[3] not in (1, 3):
        raise UserError(f"{path} holds {images.dtype} {list(images.shape)}, images are uint8 [N, H, W, 1 or 3]")
    return images


@dataclass(frozen=True)
class ArrayFile:
    """Images of an array."""
    images: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return self.images.shape[1:]

    def __len__(self) -> int:
        return len(self.images)

    def chunks(self, batch: int) -> Iterator[np.ndarray]:
        return batches(self.images, batch)


@dataclass(frozen=True)
class ImageFolder:
    """Image files of one size; the next batch is decoded while the current one is used."""
    files: list[Path]
    channels: int = 3

    @cached_property
    def shape(self) -> tuple[int, ...]:
        return self.decode(self.files[0]).shape

    @cached_property
    def keys(self) -> list[tuple[str | int, ...]]:
        """The words and numbers of every path in which the files differ; UserError where two files do not differ."""
        paths = [words(file) for file in self.files]
        places = range(min(map(len, paths)))
        varying = [place for place in places if len({path[place] for path in paths}) > 1]
        keys = [(*(path[place] for place in varying), *path[len(places):]) for path in paths]
        if twice := next((i for i in range(1, len(keys)) if keys[i] == keys[i - 1]), None):
            raise UserError(f"{self.files[twice - 1]} and {self.files[twice]} have the same number: move one away")
        return keys

    def __len__(self) -> int:
        return len(self.files)

    def chunks(self, batch: int) -> Iterator[np.ndarray]:
        with ThreadPoolExecutor() as pool:
            ahead = [pool.submit(self.decode, file) for file in self.files[:batch]]
            for start in range(0, len(self), batch):
                images = [job.result() for job in ahead]
                ahead = [pool.submit(self.decode, file) for file in self.files[start + batch:start + 2 * batch]]
                check_sizes(images, self.files[start:start + batch], self.shape)
                yield np.stack(images)

    def decode(self, file: Path) -> np.ndarray:
        """uint8 [H, W, C]; raises UserError when the file cannot be read."""
        try:
            image = np.asarray(decoded(file.read_bytes(), self.channels))
        except BadImage as error:
            raise UserError(f"{file} {error}") from error
        except OSError as error:
            raise UserError(f"{file} cannot be read ({error.strerror}): mend or remove it") from error
        return image.reshape(*image.shape[:2], self.channels)


def check_sizes(images: list[np.ndarray], files: list[Path], shape: tuple[int, ...]) -> None:
    """Raises UserError, naming the file, for an image whose shape is not `shape`."""
    for image, file in zip(images, files, strict=True):
        if image.shape != shape:
            raise UserError(f"{file} is {image.shape[1]}x{image.shape[0]} pixels, the first image is "
                            f"{shape[1]}x{shape[0]}: give images of one size")


def check_partners(a: ImageFiles, b: ImageFiles) -> None:
    """Raises UserError where file names do not tell that image i of `a` and image i of `b` belong together: those of two
    folders differ, or beside an array they do not count its images."""
    folders = [images for images in (a, b) if isinstance(images, ImageFolder)]
    named = [(file, key) for images in folders for file, key in zip(images.files, images.keys, strict=True)]
    if len(folders) == 2:
        alone = set(folders[0].keys) ^ set(folders[1].keys)
        if file := next((file for file, key in named if key in alone), None):
            raise UserError(f"{file} has no partner of its number or name in the other folder: leave --pairs out, or give "
                            "folders with the same names")
    elif len(named) > 1:
        first = named[0][1][-1]
        due = count(first if isinstance(first, int) else 0)
        if file := next((file for file, key in named if key[-1] != next(due)), None):
            raise UserError(f"{file} breaks the order, and only numbers without a gap tell which image of an array a file "
                            "belongs to: leave --pairs out, or number the files 0, 1, …")
