"""The parts of one set of images: files that any number of processes, here or on other machines, make together."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from diffprune.config.naming import fingerprint
from diffprune.runs.cache import sweep_partials_of
from diffprune.runtime.files import atomic_file

WHOLE = "whole.npy"


class Parts:
    """The set that belongs at `path`, in files of `batch` images each until all `count` are there.

    The files lie in a folder beside `path` that is named after `plan`, which holds whatever decides a bit of an image:
    processes of one plan share their parts, and those of another plan neither find nor disturb them. With a `share`
    (i, n) nothing is locked: process i of n draws every n-th part from the i-th on, and process 0 joins them.
    """

    def __init__(self, path: Path, count: int, batch: int, plan: dict[str, Any],
                 share: tuple[int, int] | None = None) -> None:
        self.path, self.count, self.share = path, count, share
        self.all = [range(start, min(start + batch, count)) for start in range(0, count, batch)]
        self.folder = path.with_name(f"{path.stem}.{fingerprint(plan | {'count': count, 'batch': batch})}.parts")

    def missing(self) -> list[range]:
        """What no process has finished, in order; nothing once the whole set is there."""
        there = {file.name for file in self.folder.glob("*.npy")}
        missing = [part for part in self.all if self.file(part).name not in there]
        return [] if self.path.exists() else missing     # asked last: the files go when the whole is there

    def done(self) -> bool:
        """Whether this process has nothing left to do: the set is whole, or its share is there and another one joins."""
        if self.share is None or self.share[0] == 0:
            return self.path.exists()
        return not self.mine(self.missing())

    def mine(self, parts: list[range]) -> list[range]:
        """Those of `parts` that this process may draw."""
        if self.share is None:
            return parts
        index, processes = self.share
        wanted = set(self.all[index::processes])
        return [part for part in parts if part in wanted]

    def awaited(self) -> list[str]:
        """The shares, as `i/n`, that have not drawn all of their parts yet."""
        missing, processes = set(self.missing()), self.share[1] if self.share else 1
        return [f"{index}/{processes}" for index in range(processes) if missing.intersection(self.all[index::processes])]

    def file(self, part: range) -> Path:
        return self.folder / f"{part.start:07d}-{part.stop:07d}.npy"

    @contextmanager
    def claimed(self, part: range) -> Iterator[bool]:
        """Whether the part is this process's to draw until the context ends; a killed process claims nothing."""
        with self.held(self.file(part)) as held:
            yield held and not self.file(part).exists()

    @contextmanager
    def held(self, file: Path) -> Iterator[bool]:
        """Whether `file`, of a set that is not whole, is this process's alone while the context lasts; never waits."""
        if self.share is not None:
            yield not self.path.exists()
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(file.with_suffix(".lock"), timeout=0)
        try:
            lock.acquire()
        except (Timeout, FileNotFoundError):    # the folder goes when another process made the set whole
            yield False
            return
        try:
            yield not self.path.exists()
        finally:
            lock.release()

    def write(self, part: range, images: np.ndarray) -> None:
        """Puts the images of a part that this process has claimed, uint8 [len(part), H, W, C], into its file."""
        sweep_partials_of(self.file(part))
        try:
            with atomic_file(self.file(part)) as partial, partial.open("wb") as file:
                np.save(file, images)
        except FileNotFoundError:   # a process of another plan made the set whole and took the folder away
            if not self.path.exists():
                raise

    def join(self) -> None:
        """Makes the whole set appear at `path` from parts that are all there, unless another process does.

        One part is in memory at a time; the disk holds the parts and one copy.
        """
        if self.share is not None and self.share[0] != 0:
            return
        with self.held(self.folder / WHOLE) as held:
            if held:
                self.concatenate()

    def concatenate(self) -> None:
        sweep_partials_of(self.folder / WHOLE)
        with atomic_file(self.folder / WHOLE) as partial, partial.open("wb") as whole:
            shape = np.load(self.file(self.all[0]), mmap_mode="r").shape[1:]
            head = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.uint8)), "fortran_order": False,
                    "shape": (self.count, *shape)}
            np.lib.format.write_array_header_1_0(whole, head)
            for part in self.all:
                images = np.load(self.file(part))
                if images.shape != (len(part), *shape):
                    raise ValueError(f"{self.file(part)} has the shape {images.shape}, not {(len(part), *shape)}")
                images.tofile(whole)
        os.replace(self.folder / WHOLE, self.path)

    def remove(self) -> None:
        """Deletes the parts, those of other plans too, once the whole set is there."""
        if self.path.exists():
            for folder in self.path.parent.glob(f"{self.path.stem}.*parts"):
                shutil.rmtree(folder, ignore_errors=True)   # another process may be deleting the same
