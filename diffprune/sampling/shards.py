"""One set of images in shards: files that any number of processes, here or on other machines, make together."""

import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from diffprune.config.naming import fingerprint
from diffprune.runs.cache import acquired, file_lock, sweep_partials_of
from diffprune.runtime.checksums import intact
from diffprune.runtime.files import atomic_file, rename

COMPLETE = "complete.npy"


class Shards:
    """The set that belongs at `path`, in files of `batch` images each until all `count` are drawn.

    The files are in a folder next to `path` that is named after `key`, which holds whatever decides a bit of an image:
    processes of one key share their shards, and those of another key neither read nor disturb them.
    """

    def __init__(self, path: Path, count: int, batch: int, key: dict[str, Any]) -> None:
        self.path, self.count = path, count
        self.all = [range(start, min(start + batch, count)) for start in range(0, count, batch)]
        self.folder = path.with_name(f"{path.stem}.{fingerprint(key | {'count': count, 'batch': batch})}.shards")

    def missing(self) -> list[range]:
        """The shards that no process has finished, in order; none once the set is complete."""
        finished = {file.name for file in self.folder.glob("*.npy")}
        missing = [shard for shard in self.all if self.file(shard).name not in finished]
        return [] if self.path.exists() else missing     # checked last: the shards are deleted when the set is complete

    def file(self, shard: range) -> Path:
        return self.folder / f"{shard.start:07d}-{shard.stop:07d}.npy"

    @contextmanager
    def claimed(self, shard: range) -> Generator[bool]:
        """Whether the shard is this process's to draw until the context ends; a killed process claims nothing."""
        with self.locked(self.file(shard)) as locked:
            yield locked and not self.file(shard).exists()

    @contextmanager
    def locked(self, file: Path) -> Generator[bool]:
        """Whether this process alone has `file`, of a set that is not complete, while the context lasts; never waits."""
        lock = file_lock(file.with_suffix(".lock"))
        try:
            yield acquired(lock) and not self.path.exists()
        finally:
            lock.release()

    def write(self, shard: range, images: np.ndarray) -> None:
        """Writes the images of a shard that this process has claimed, uint8 [len(shard), H, W, C]."""
        sweep_partials_of(self.file(shard))
        try:
            with atomic_file(self.file(shard), checksum=True) as partial, partial.open("wb") as file:
                np.save(file, images)
        except FileNotFoundError:   # a process of another key completed the set and deleted the folder
            if not self.path.exists():
                raise

    def join(self) -> None:
        """Writes the complete set to `path` from all of its shards, unless another process does or a shard is damaged,
        which then is missing again.

        One shard is in memory at a time; the disk holds the shards and one copy.
        """
        with self.locked(self.folder / COMPLETE) as locked:
            files = [self.file(shard) for shard in self.all]
            if locked and all(intact(file) for file in files if file.exists()):
                self.concatenate()

    def concatenate(self) -> None:
        sweep_partials_of(self.folder / COMPLETE)
        with atomic_file(self.folder / COMPLETE) as partial, partial.open("wb") as complete:
            shape = np.load(self.file(self.all[0]), mmap_mode="r").shape[1:]
            head = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.uint8)), "fortran_order": False,
                    "shape": (self.count, *shape)}
            np.lib.format.write_array_header_1_0(complete, head)
            for shard in self.all:
                images = np.load(self.file(shard))
                if images.shape != (len(shard), *shape):
                    raise ValueError(f"{self.file(shard)} has the shape {images.shape}, not {(len(shard), *shape)}")
                images.tofile(complete)
        rename(self.folder / COMPLETE, self.path, checksum=True)

    def remove(self) -> None:
        """Deletes the shards, those of other keys too, once the set is complete."""
        if self.path.exists():
            for folder in self.path.parent.glob(f"{self.path.stem}.*shards"):
                shutil.rmtree(folder, ignore_errors=True)   # another process may be deleting the same
